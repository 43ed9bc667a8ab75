/* A stand-in for libnvidia-ml.so.1: the functions that pynvml's callers here use, answering from a state file. */
#include "state.h"

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
typedef struct device *handle;
typedef unsigned int uint;

#define TROUBLE(index)                                                                                                 \
    do {                                                                                                               \
        int code = trouble(__func__, index);                                                                           \
        if (code != 0)                                                                                                 \
            return code;                                                                                               \
    } while (0)

static int give(uint *to, long long value) {
    if (value == ABSENT)
        return NOT_SUPPORTED;
    *to = (uint)value;
    return OK;
}

int nvmlInitWithFlags(uint flags) {
    (void)flags;
    read_state();
    if (host.slow > 0)
        sleep((unsigned int)host.slow);
    TROUBLE(-1);
    return OK;
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 12: return "NVML Shared Library Not Found";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 17: return "An operating system call has failed";
    case 18: return "Driver/library version mismatch";
    case 19: return "In use by another client";
    case 999: return "Unknown Error";
    default: return "Simulated Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, uint size) {
    TROUBLE(-1);
    copy(version, host.driver, size);
    return OK;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    TROUBLE(-1);
    return give((uint *)version, host.cuda);
}

int nvmlDeviceGetCount_v2(uint *count) {
    TROUBLE(-1);
    *count = (uint)host.gpus;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(uint index, handle *device) {
    TROUBLE((int)index);
    if (index >= (uint)host.gpus)
        return INVALID_ARGUMENT;
    *device = &host.gpu[index];
    return OK;
}

int nvmlDeviceGetUUID(handle device, char *uuid, uint size) {
    TROUBLE(device->index);
    copy(uuid, device->uuid, size);
    return OK;
}

int nvmlDeviceGetName(handle device, char *name, uint size) {
    TROUBLE(device->index);
    copy(name, device->name, size);
    return OK;
}

int nvmlDeviceGetMemoryInfo(handle device, unsigned long long memory[3]) {
    TROUBLE(device->index);
    if (device->total == ABSENT)
        return NOT_SUPPORTED;
    memory[0] = (unsigned long long)device->total;
    memory[1] = (unsigned long long)(device->total - device->used);
    memory[2] = (unsigned long long)device->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(handle device, uint rates[2]) {
    TROUBLE(device->index);
    rates[1] = 0;
    return give(&rates[0], device->utilization);
}

int nvmlDeviceGetTemperature(handle device, int sensor, uint *temperature) {
    (void)sensor;
    TROUBLE(device->index);
    return give(temperature, device->temperature);
}

int nvmlDeviceGetTotalEccErrors(handle device, int kind, int counter, unsigned long long *count) {
    (void)kind, (void)counter;
    TROUBLE(device->index);
    if (device->ecc == ABSENT)
        return NOT_SUPPORTED;
    *count = (unsigned long long)device->ecc;
    return OK;
}

struct pci {
    char legacy[16];
    uint domain, bus, device, id, subsystem;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(handle device, struct pci *info) {
    TROUBLE(device->index);
    memset(info, 0, sizeof *info);
    copy(info->bus_id, device->bus, sizeof info->bus_id);
    return OK;
}

int nvmlDeviceGetMigMode(handle device, uint *current, uint *pending) {
    TROUBLE(device->index);
    *pending = device->mig == 1;
    return give(current, device->mig);
}

int nvmlDeviceGetMaxMigDeviceCount(handle device, uint *count) {
    TROUBLE(device->index);
    *count = device->mig == ABSENT ? 0 : 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(handle device, uint slot, handle *instance) {
    TROUBLE(device->index);
    for (int i = 0; i < host.migs; i++)
        if (host.mig[i].index == device->index && host.mig[i].slot == (int)slot) {
            *instance = &host.mig[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetPersistenceMode(handle device, int *mode) {
    TROUBLE(device->index);
    return give((uint *)mode, device->persistence);
}

struct process_info {
    uint pid;
    unsigned long long memory;
    uint gpu_instance, compute_instance;
};

static int processes(handle device, const char *kind, uint *count, struct process_info *list) {
    uint found = 0;
    for (int i = 0; i < host.processes; i++) {
        struct process *p = &host.process[i];
        if (p->index != device->index || strcmp(p->kind, kind) != 0)
            continue;
        if (found < *count && list != NULL)
            list[found] = (struct process_info){p->pid, (unsigned long long)p->memory, ~0u, ~0u};
        found++;
    }
    int fits = found <= *count;
    *count = found;
    return fits ? OK : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses_v3(handle device, uint *count, struct process_info *list) {
    TROUBLE(device->index);
    return processes(device, "compute", count, list);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(handle device, uint *count, struct process_info *list) {
    TROUBLE(device->index);
    return processes(device, "graphics", count, list);
}

int nvmlDeviceGetComputeRunningProcesses_v2(handle device, uint *count, struct process_info *list) {
    TROUBLE(device->index);
    return processes(device, "compute", count, list);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(handle device, uint *count, struct process_info *list) {
    TROUBLE(device->index);
    return processes(device, "graphics", count, list);
}
