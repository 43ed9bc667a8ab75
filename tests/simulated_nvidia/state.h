/* The state of a simulated NVIDIA host, read from a file of lines with tab-separated fields:
 *
 *   driver VERSION        cuda NUMBER (12040 is 12.4)        cuinit CODE
 *   gpu UUID NAME TOTAL USED UTILIZATION TEMPERATURE ECC BUS MIG
 *   mig GPU-INDEX UUID NAME TOTAL USED
 *   process GPU-INDEX PID MEMORY (compute|graphics)       persistence GPU-INDEX 0|1       slow SECONDS (of nvmlInit)
 *   fail FUNCTION CODE INDEX (-1: whatever the device)        hang FUNCTION        crash FUNCTION
 *
 * A number of "-" is one that the driver does not report (NOT_SUPPORTED). Sizes in bytes.
 */
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEVICES 64
#define ABSENT (-1LL)

struct device {
    int index, slot; /* slot: of a MIG instance, else -1 */
    char uuid[96], name[96], bus[32];
    long long total, used, utilization, temperature, ecc, mig, persistence;
};
struct process {
    int index;
    unsigned int pid;
    long long memory;
    char kind[16];
};
struct trouble {
    char what[8], function[64];
    int code, index;
};
static struct {
    char driver[80];
    long long cuda, cuinit, slow;
    int gpus, migs, troubles, processes;
    struct process process[MAX_DEVICES];
    struct device gpu[MAX_DEVICES], mig[MAX_DEVICES];
    struct trouble trouble[MAX_DEVICES];
} host;

static long long number(const char *field) {
    return field == NULL || strcmp(field, "-") == 0 ? ABSENT : atoll(field);
}

static void copy(char *to, const char *from, size_t size) {
    snprintf(to, size, "%s", from == NULL ? "" : from);
}

static void read_line(char *line) {
    char *field[16] = {0};
    int fields = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *rest = line; fields < 16 && (field[fields] = strsep(&rest, "\t")) != NULL; fields++)
        ;
    const char *word = field[0];
    if (word == NULL)
        return;
    if (strcmp(word, "driver") == 0)
        copy(host.driver, field[1], sizeof host.driver);
    else if (strcmp(word, "cuda") == 0)
        host.cuda = number(field[1]);
    else if (strcmp(word, "cuinit") == 0)
        host.cuinit = number(field[1]);
    else if (strcmp(word, "gpu") == 0 && host.gpus < MAX_DEVICES) {
        struct device *d = &host.gpu[host.gpus];
        d->index = host.gpus++, d->slot = -1;
        copy(d->uuid, field[1], sizeof d->uuid), copy(d->name, field[2], sizeof d->name);
        d->total = number(field[3]), d->used = number(field[4]), d->utilization = number(field[5]);
        d->temperature = number(field[6]), d->ecc = number(field[7]);
        copy(d->bus, field[8], sizeof d->bus), d->mig = number(field[9]), d->persistence = ABSENT;
    } else if (strcmp(word, "persistence") == 0 && number(field[1]) >= 0 && number(field[1]) < host.gpus)
        host.gpu[number(field[1])].persistence = number(field[2]);
    else if (strcmp(word, "slow") == 0)
        host.slow = number(field[1]);
    else if (strcmp(word, "process") == 0 && host.processes < MAX_DEVICES) {
        struct process *p = &host.process[host.processes++];
        p->index = (int)number(field[1]), p->pid = (unsigned int)number(field[2]), p->memory = number(field[3]);
        copy(p->kind, field[4], sizeof p->kind);
    } else if (strcmp(word, "mig") == 0 && host.migs < MAX_DEVICES) {
        struct device *d = &host.mig[host.migs++];
        d->index = (int)number(field[1]), d->mig = ABSENT, d->slot = 0;
        for (int i = 0; i < host.migs - 1; i++)
            d->slot += host.mig[i].index == d->index;
        copy(d->uuid, field[2], sizeof d->uuid), copy(d->name, field[3], sizeof d->name);
        d->total = number(field[4]), d->used = number(field[5]);
        d->utilization = d->temperature = d->ecc = ABSENT;
    } else if (host.troubles < MAX_DEVICES && (!strcmp(word, "fail") || !strcmp(word, "hang") || !strcmp(word, "crash"))) {
        struct trouble *t = &host.trouble[host.troubles++];
        copy(t->what, word, sizeof t->what), copy(t->function, field[1], sizeof t->function);
        t->code = field[2] ? atoi(field[2]) : 0, t->index = field[2] && field[3] ? atoi(field[3]) : -1;
    }
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "r");
    char line[1024];
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        read_line(line);
    if (file != NULL)
        fclose(file);
}

/* On the host one file, in a container all files of a folder: there each granted device may bring its own. */
static void read_state(void) {
    memset(&host, 0, sizeof host);
    host.cuda = ABSENT;
    if (getenv("SIMULATED_NVIDIA") != NULL) {
        read_file(getenv("SIMULATED_NVIDIA"));
        return;
    }
    glob_t found;
    if (glob("/etc/simulated-nvidia.d/*", 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++)
            read_file(found.gl_pathv[i]);
    globfree(&found);
}

/* The trouble that a test has set for this function and device: hangs, crashes, or returns a code. */
static int trouble(const char *function, int index) {
    for (int i = 0; i < host.troubles; i++) {
        struct trouble *t = &host.trouble[i];
        if (strcmp(t->function, function) != 0 || (t->index != -1 && t->index != index))
            continue;
        if (strcmp(t->what, "hang") == 0)
            for (;;)
                pause();
        if (strcmp(t->what, "crash") == 0)
            raise(SIGSEGV);
        return t->code;
    }
    return 0;
}
