/* A stand-in for libcuda.so.1: the functions that show whether CUDA could work. */
#include "state.h"

/* Devices that CUDA_VISIBLE_DEVICES names by UUID; without it all whole GPUs. */
static int visible(void) {
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int count = 0;
    if (list == NULL)
        return host.gpus;
    for (int i = 0; i < host.gpus; i++)
        count += strstr(list, host.gpu[i].uuid) != NULL;
    for (int i = 0; i < host.migs; i++)
        count += strstr(list, host.mig[i].uuid) != NULL;
    return count;
}

int cuInit(unsigned int flags) {
    (void)flags;
    read_state();
    int code = trouble(__func__, -1);
    return code != 0 ? code : visible() == 0 ? 100 : (int)host.cuinit; /* 100: CUDA_ERROR_NO_DEVICE */
}

int cuDriverGetVersion(int *version) {
    *version = (int)host.cuda;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = visible();
    return 0;
}
