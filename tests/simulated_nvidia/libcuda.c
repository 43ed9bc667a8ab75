/* A stand-in for libcuda.so.1: the functions that show whether CUDA could work. */
#include "state.h"

int cuInit(unsigned int flags) {
    (void)flags;
    read_state();
    int code = trouble(__func__, -1);
    return code != 0 ? code : host.gpus + host.migs == 0 ? 100 : (int)host.cuinit; /* 100: CUDA_ERROR_NO_DEVICE */
}

int cuDriverGetVersion(int *version) {
    *version = (int)host.cuda;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = host.gpus;
    return 0;
}
