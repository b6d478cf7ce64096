/* An optional backend of ggml without a GPU behind it. Being opened shows: it appends a line to MARKER, if that is
 * defined. What else it does is chosen when it is compiled:
 *   -DCRASHES        it ends the process that opens it, as a broken driver does
 *   -DREFUSES        it says that it does not support this machine
 *   -DGPU="name"     it brings a GPU of that name, which is the CPU: what is offloaded to it is computed all the same
 *   -DAPI_VERSION=1  it was made for another ggml
 * The structs are those of ggml-backend-impl.h, as far as they are needed here.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef API_VERSION
#define API_VERSION 2
#endif

enum { GET_NAME = 0, GET_TYPE = 3, GET_PROPS = 4, NUM_FUNCTIONS = 15, CPU = 0, GPU_TYPE = 1 };

struct device {
    void *functions[NUM_FUNCTIONS];
    void *registry;
    void *context;
};

struct registry {
    int api_version;
    const char *(*get_name)(struct registry *);
    size_t (*get_device_count)(struct registry *);
    struct device *(*get_device)(struct registry *, size_t);
    void *(*get_proc_address)(struct registry *, const char *);
    void *context;
};

struct properties {
    const char *name, *description;
    size_t memory_free, memory_total;
    int type;
};

__attribute__((constructor)) static void opened(void)
{
#ifdef MARKER
    FILE *marker = fopen(MARKER, "a");
    if (marker) {
        fputs("opened\n", marker);
        fclose(marker);
    }
#endif
#ifdef CRASHES
    abort();
#endif
}

#ifdef REFUSES
int ggml_backend_score(void) { return 0; }
#endif

static const char *registry_name(struct registry *registry) { return "Fake"; }
static void *no_function(struct registry *registry, const char *name) { return NULL; }

#ifdef GPU
extern struct device *ggml_backend_dev_by_type(int type);

static struct device *cpu, gpu;

static const char *gpu_name(struct device *device) { return GPU; }
static int gpu_type(struct device *device) { return GPU_TYPE; }

static void gpu_properties(struct device *device, struct properties *properties)
{
    ((void (*)(struct device *, struct properties *))cpu->functions[GET_PROPS])(device, properties);
    properties->name = GPU;
    properties->type = GPU_TYPE;
}

static size_t count(struct registry *registry) { return 1; }

static struct device *get(struct registry *registry, size_t index)
{
    cpu = ggml_backend_dev_by_type(CPU);
    gpu = *cpu;
    gpu.registry = registry;
    gpu.functions[GET_NAME] = gpu_name;
    gpu.functions[GET_TYPE] = gpu_type;
    gpu.functions[GET_PROPS] = gpu_properties;
    return &gpu;
}
#else
static size_t count(struct registry *registry) { return 0; }
static struct device *get(struct registry *registry, size_t index) { return NULL; }
#endif

static struct registry fake = {API_VERSION, registry_name, count, get, no_function, NULL};

struct registry *ggml_backend_init(void) { return &fake; }
