/* libnvidia-ml.so.1 for the tests: the functions that workers/gpus.py asks, with NVML's own names,
   structures and error codes, answering from a text file that NVML_READINGS names.

   A line is `key value`; the keys of a card begin with its number (`3.`), those of a slice of it
   with both (`3/0.`). `3.error 15` makes card 3 answer only that. What a card has no line for is
   not supported. The file is read at each call, so that it may change meanwhile. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10 };
typedef unsigned int uint;
typedef unsigned long long u64;
typedef struct { char key[16]; } Handle;
static Handle cards[64], slices[64][16];
static int taken; /* events that were told */

static FILE *readings(void) {
    const char *path = getenv("NVML_READINGS");
    return path ? fopen(path, "r") : NULL;
}

/* The value of the `nth` line with this key; 0 where there is none. */
static int find(const char *owner, const char *name, int nth, char *value, size_t size) {
    char line[256], key[64];
    FILE *file = readings();
    int found = 0;
    snprintf(key, sizeof key, *owner ? "%s.%s " : "%s%s ", owner, name);
    while (file && !found && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)) && nth-- == 0) {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + strlen(key));
            found = 1;
        }
    if (file) fclose(file);
    return found;
}

static int text(Handle *of, const char *name, char *to, size_t size) {
    char value[256];
    if (find(of ? of->key : "", "error", 0, value, sizeof value)) return atoi(value);
    return find(of ? of->key : "", name, 0, to, size) ? OK : NOT_SUPPORTED;
}

static int number(Handle *of, const char *name, u64 *to) {
    char value[256];
    int result = text(of, name, value, sizeof value);
    if (result == OK) *to = strtoull(value, NULL, 0);
    return result;
}

static int small(Handle *of, const char *name, uint *to) {
    u64 value;
    int result = number(of, name, &value);
    if (result == OK) *to = (uint)value;
    return result;
}

/* -- the driver -- */

int nvmlInitWithFlags(uint flags) {
    char value[64];
    (void)flags;
    if (find("", "hang", 0, value, sizeof value)) sleep((uint)atoi(value));
    return find("", "driver", 0, value, sizeof value) ? OK : NO_DRIVER;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int error) { return error == 15 ? "GPU is lost" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *to, uint size) { return text(NULL, "driver", to, size); }
int nvmlSystemGetCudaDriverVersion(int *to) { return small(NULL, "cuda", (uint *)to); }
int nvmlDeviceGetCount_v2(uint *to) {
    char value[64];
    if (find("", "hang", 0, value, sizeof value)) sleep((uint)atoi(value));
    return small(NULL, "count", to);
}

/* -- cards and slices -- */

int nvmlDeviceGetHandleByIndex_v2(uint index, Handle **to) {
    if (index >= 64) return NOT_FOUND;
    snprintf(cards[index].key, sizeof cards[index].key, "%u", index);
    *to = &cards[index];
    return OK;
}
int nvmlDeviceGetMigMode(Handle *of, uint *now, uint *later) {
    int result = small(of, "mig", now);
    *later = *now;
    return result;
}
int nvmlDeviceGetMaxMigDeviceCount(Handle *of, uint *to) { return small(of, "slices", to); }
int nvmlDeviceGetMigDeviceHandleByIndex(Handle *of, uint index, Handle **to) {
    char value[64];
    int card = atoi(of->key);
    Handle *slice = &slices[card][index];
    snprintf(slice->key, sizeof slice->key, "%d/%u", card, index);
    if (!find(slice->key, "uuid", 0, value, sizeof value)) return NOT_FOUND;
    *to = slice;
    return OK;
}
int nvmlDeviceGetName(Handle *of, char *to, uint size) { return text(of, "name", to, size); }
int nvmlDeviceGetUUID(Handle *of, char *to, uint size) { return text(of, "uuid", to, size); }

typedef struct {
    char legacy[16];
    uint domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
int nvmlDeviceGetPciInfo_v3(Handle *of, Pci *to) {
    memset(to, 0, sizeof *to);
    return text(of, "pci", to->bus_id, sizeof to->bus_id);
}
int nvmlDeviceGetCudaComputeCapability(Handle *of, int *major, int *minor) {
    char value[64];
    int result = text(of, "compute", value, sizeof value);
    if (result == OK) sscanf(value, "%d.%d", major, minor);
    return result;
}

/* -- readings -- */

typedef struct { u64 total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Handle *of, Memory *to) {
    int result = number(of, "total", &to->total);
    if (result == OK) result = number(of, "used", &to->used);
    to->free = to->total - to->used;
    return result;
}
typedef struct { uint gpu, memory; } Use;
int nvmlDeviceGetUtilizationRates(Handle *of, Use *to) { return small(of, "use", &to->gpu); }
int nvmlDeviceGetTemperature(Handle *of, int sensor, uint *to) {
    (void)sensor;
    return small(of, "temperature", to);
}
int nvmlDeviceGetPowerUsage(Handle *of, uint *to) { return small(of, "power", to); }
int nvmlDeviceGetEnforcedPowerLimit(Handle *of, uint *to) { return small(of, "limit", to); }
int nvmlDeviceGetCurrentClocksThrottleReasons(Handle *of, u64 *to) {
    return number(of, "throttle", to);
}
int nvmlDeviceGetTotalEccErrors(Handle *of, int kind, int counter, u64 *to) {
    return kind == 1 && counter == 0 ? number(of, "ecc", to) : NOT_SUPPORTED;
}
int nvmlDeviceGetRemappedRows(Handle *of, uint *right, uint *wrong, uint *pending, uint *failed) {
    int result = small(of, "remap_pending", pending);
    *right = *wrong = *failed = 0;
    small(of, "remap_failed", failed);
    return result;
}

/* -- processes: `3.process 4711 8589934592`; without a number, its memory is not known -- */

typedef struct { uint pid; u64 used; uint instance, compute; } Process;
int nvmlDeviceGetComputeRunningProcesses_v3(Handle *of, uint *count, Process *to) {
    char value[64];
    uint room = *count;
    int error = text(of, "uuid", value, sizeof value);
    if (error) return error;
    for (*count = 0; find(of->key, "process", (int)*count, value, sizeof value); ++*count)
        if (to && *count < room) {
            to[*count].used = ~0ull;
            sscanf(value, "%u %llu", &to[*count].pid, &to[*count].used);
        }
    return *count && (!to || *count > room) ? TOO_SMALL : OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle *of, uint *count, Process *to) {
    (void)of, (void)to, *count = 0;
    return OK;
}

/* -- critical errors: `event 3 79` is one of card 3, told once -- */

typedef struct { Handle *device; u64 type, data; uint instance, compute; } Event;
int nvmlEventSetCreate(void **to) { return *to = &taken, OK; }
int nvmlEventSetFree(void *set) { return (void)set, OK; }
int nvmlDeviceGetSupportedEventTypes(Handle *of, u64 *to) { return (void)of, *to = 8, OK; }
int nvmlDeviceRegisterEvents(Handle *of, u64 types, void *set) {
    return (void)of, (void)types, (void)set, OK;
}
int nvmlEventSetWait_v2(void *set, Event *to, uint wait) {
    char value[64];
    uint card;
    (void)set, (void)wait;
    if (!find("", "event", taken, value, sizeof value)) return TIMEOUT;
    memset(to, 0, sizeof *to);
    sscanf(value, "%u %llu", &card, &to->data);
    to->type = 8;
    ++taken;
    return nvmlDeviceGetHandleByIndex_v2(card, &to->device);
}
