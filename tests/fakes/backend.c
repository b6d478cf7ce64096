/* An optional backend of ggml without a GPU behind it. Being opened shows: it appends a line to MARKER, if that is
 * defined. What else it does is chosen when it is compiled:
 *   -DCRASHES        it ends the process that opens it, as a broken driver does
 *   -DREFUSES        it says that it does not support this machine
 *   -DGPU="name"     it brings a GPU of that name, which is the CPU: what is offloaded to it is computed all the same
 *   -DGPU_ID="id"    which is the same GPU as others with this id
 *   -DMEMORY=BYTES   that GPU has so much memory: what processes have of it stands in files of the folder LEDGER, and
 *                    they get no more
 *   -DBREAKS         and whoever wants some of it is ended
 *   -DAPI_VERSION=1  it was made for another ggml
 * The structs are those of ggml-backend-impl.h, as far as they are needed here.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef MEMORY
#include <dirent.h>
#include <signal.h>
#include <unistd.h>
#endif

#ifndef API_VERSION
#define API_VERSION 2
#endif

enum { GET_NAME = 0, GET_MEMORY = 2, GET_TYPE = 3, GET_PROPS = 4, INIT = 5, GET_BUFFER_TYPE = 6, NUM_FUNCTIONS = 15 };
enum { CPU = 0, GPU_TYPE = 1 };

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

struct capabilities {
    bool async, host_buffer, buffer_from_host_ptr, events, mmap_support;
};

struct all_properties {
    struct properties first;
    const char *device_id;
    struct capabilities capabilities;
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

#ifdef MEMORY
struct buffer {
    void (*free_buffer)(struct buffer *);
};

struct buffer_type {
    const char *(*get_name)(struct buffer_type *);
    struct buffer *(*alloc_buffer)(struct buffer_type *, size_t);
    void *functions[4];
    struct device *device;
    void *context;
};

struct backend {
    void *guid, *functions[16];
    struct device *device;
};

extern struct buffer_type *ggml_backend_cpu_buffer_type(void);
extern size_t ggml_backend_buffer_get_size(struct buffer *);

static struct buffer_type gpu_buffers;
static void (*free_on_cpu)(struct buffer *);
static size_t own_bytes;

static size_t taken_bytes(void)
{
    size_t sum = 0, bytes;
    DIR *folder = opendir(LEDGER);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[4096];
        int pid = atoi(entry->d_name);
        snprintf(path, sizeof path, "%s/%s", LEDGER, entry->d_name);
        FILE *file = pid && !kill(pid, 0) ? fopen(path, "r") : NULL;
        if (file) {
            sum += fscanf(file, "%zu", &bytes) == 1 ? bytes : 0;
            fclose(file);
        }
    }
    if (folder)
        closedir(folder);
    return sum;
}

static void note(size_t bytes)
{
    char path[4096], fresh[4096];
    own_bytes = bytes;
    snprintf(path, sizeof path, "%s/%d", LEDGER, (int)getpid());
    snprintf(fresh, sizeof fresh, "%s/.%d", LEDGER, (int)getpid());
    FILE *file = fopen(fresh, "w");
    if (file) {
        fprintf(file, "%zu", bytes);
        fclose(file);
        rename(fresh, path);
    }
}

static void gpu_memory(struct device *device, size_t *free_bytes, size_t *total_bytes)
{
    size_t taken = taken_bytes();
    *total_bytes = MEMORY;
    *free_bytes = taken < MEMORY ? MEMORY - taken : 0;
}

static void free_on_gpu(struct buffer *buffer)
{
    note(own_bytes - ggml_backend_buffer_get_size(buffer));
    free_on_cpu(buffer);
}

static struct buffer *alloc_on_gpu(struct buffer_type *type, size_t size)
{
    struct buffer *buffer = NULL;
#ifdef BREAKS
    abort();
#endif
    if (taken_bytes() + size <= MEMORY)
        buffer = ggml_backend_cpu_buffer_type()->alloc_buffer(type, size);
    if (buffer) {
        note(own_bytes + size);
        free_on_cpu = buffer->free_buffer;
        buffer->free_buffer = free_on_gpu;
    }
    return buffer;
}

static const char *buffer_name(struct buffer_type *type) { return GPU; }
static struct buffer_type *gpu_buffer_type(struct device *device) { return &gpu_buffers; }

static struct backend *gpu_backend(struct device *device, const char *parameters)
{
    struct backend *backend = ((struct backend * (*)(struct device *, const char *)) cpu->functions[INIT])(cpu, parameters);
    /* By this it is known where buffers for computing go. */
    backend->device = device;
    return backend;
}

static void own_memory(struct device *device)
{
    gpu_buffers = *ggml_backend_cpu_buffer_type();
    gpu_buffers.get_name = buffer_name;
    gpu_buffers.alloc_buffer = alloc_on_gpu;
    gpu_buffers.device = device;
    device->functions[GET_MEMORY] = gpu_memory;
    device->functions[INIT] = gpu_backend;
    device->functions[GET_BUFFER_TYPE] = gpu_buffer_type;
}
#endif

static void gpu_properties(struct device *device, struct properties *properties)
{
    ((void (*)(struct device *, struct properties *))cpu->functions[GET_PROPS])(device, properties);
    properties->name = GPU;
    properties->type = GPU_TYPE;
#ifdef GPU_ID
    ((struct all_properties *)properties)->device_id = GPU_ID;
#endif
#ifdef MEMORY
    gpu_memory(device, &properties->memory_free, &properties->memory_total);
    /* What is read from the file is copied. */
    ((struct all_properties *)properties)->capabilities.buffer_from_host_ptr = false;
    ((struct all_properties *)properties)->capabilities.mmap_support = false;
#endif
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
#ifdef MEMORY
    own_memory(&gpu);
#endif
    return &gpu;
}
#else
static size_t count(struct registry *registry) { return 0; }
static struct device *get(struct registry *registry, size_t index) { return NULL; }
#endif

static struct registry fake = {API_VERSION, registry_name, count, get, no_function, NULL};

struct registry *ggml_backend_init(void) { return &fake; }
