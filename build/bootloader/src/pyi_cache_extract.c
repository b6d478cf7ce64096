/*
 * Shimmy's addition to the PyInstaller bootloader, see pyi_cache.c: making the directory, and removing old ones.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pyi_cache.h"
#include "pyi_cache_internal.h"
#include "pyi_archive.h"
#include "pyi_main.h"
#include "pyi_utils.h"
#include "libdeflate/libdeflate.h"

#define NEW_PREFIX ".new-"

enum {
    KEEP_UNUSED_SECONDS = 24 * 3600, /* Extracting again costs so little that there is no reason to keep more. */
    MAX_THREADS = 4,                 /* The biggest file takes as long as all others but the next one. */
};

struct TASK
{
    const struct TOC_ENTRY *entry;
    uint64_t *digest; /* Where that of its contents goes */
};

/* What the threads share: each takes the next task until there are none, or one has failed. */
struct EXTRACTION
{
    const unsigned char *archive;
    int dir_fd;
    struct TASK *tasks;
    size_t num_tasks;
    atomic_size_t next;
    atomic_bool failed;
};


static bool
make_parents(int dir_fd, const char *name)
{
    char parent[PYI_PATH_MAX];
    for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        int length = (int)(slash - name);
        if (snprintf(parent, sizeof(parent), "%.*s", length, name) >= (int)sizeof(parent)) {
            return false;
        }
        if (mkdirat(dir_fd, parent, S_IRWXU) < 0 && errno != EEXIST) {
            return false;
        }
    }
    return true;
}


static bool
write_file(int dir_fd, const char *name, mode_t mode, const void *data, size_t length)
{
    const char *position = data, *end = position + length;
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0) {
        return false;
    }
    while (position < end) {
        ssize_t written = write(fd, position, end - position);
        if (written <= 0) {
            break;
        }
        position += written;
    }
    /* Some file systems say only here that the disk is full. */
    return close(fd) == 0 && position == end;
}


static bool
write_entry(int dir_fd, const struct TOC_ENTRY *entry, const void *data)
{
    mode_t mode = S_IRUSR | S_IWUSR | (entry->typecode == ARCHIVE_ITEM_BINARY ? S_IXUSR : 0);
    if (!make_parents(dir_fd, entry->name)) {
        return false;
    }
    if (entry->typecode == ARCHIVE_ITEM_SYMLINK) {
        return symlinkat(data, dir_fd, entry->name) == 0;
    }
    return write_file(dir_fd, entry->name, mode, data, cache_size_on_disk(entry));
}


/* The entry's data, `size` of them; in `room` when it was compressed. NULL on failure. */
static const void *
unpack(struct libdeflate_decompressor *decompressor, const unsigned char *packed, const struct TOC_ENTRY *entry,
       void *room, size_t size)
{
    if (!entry->compression_flag) {
        return packed;
    }
    return libdeflate_zlib_decompress(decompressor, packed, entry->length, room, size, NULL) == LIBDEFLATE_SUCCESS
           ? room : NULL;
}


static bool
extract_entry(struct libdeflate_decompressor *decompressor, const struct EXTRACTION *extraction,
              const struct TASK *task, void *room)
{
    const struct TOC_ENTRY *entry = task->entry;
    const void *data = unpack(decompressor, extraction->archive + entry->offset, entry, room, entry->uncompressed_length);
    struct DIGEST digest;

    if (data == NULL || !write_entry(extraction->dir_fd, entry, data)) {
        return false;
    }
    digest_begin(&digest);
    digest_update(&digest, data, cache_size_on_disk(entry));
    *task->digest = digest_value(&digest);
    return true;
}


/* One thread. The first task is the biggest, so what has room for that one has room for each. */
static void *
extract_some(void *argument)
{
    struct EXTRACTION *extraction = argument;
    struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
    void *room = NULL;
    size_t i;

    while (!extraction->failed && (i = atomic_fetch_add(&extraction->next, 1)) < extraction->num_tasks) {
        const struct TASK *task = &extraction->tasks[i];
        if (room == NULL) {
            room = malloc(task->entry->uncompressed_length + 1); /* An empty file needs a pointer as well. */
        }
        if (decompressor == NULL || room == NULL || !extract_entry(decompressor, extraction, task, room)) {
            extraction->failed = true;
        }
    }
    free(room);
    libdeflate_free_decompressor(decompressor);
    return NULL;
}


/* Where no thread can be made, this one does it all. */
static void
extract_in_threads(struct EXTRACTION *extraction)
{
    pthread_t threads[MAX_THREADS];
    int num_threads = 0;
    cpu_set_t cores;
    int num_cores = sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;

    while (num_threads < num_cores - 1 && num_threads < MAX_THREADS - 1
           && pthread_create(&threads[num_threads], NULL, extract_some, extraction) == 0) {
        num_threads++;
    }
    extract_some(extraction);
    while (num_threads > 0) {
        pthread_join(threads[--num_threads], NULL);
    }
}


static int
biggest_first(const void *left, const void *right)
{
    uint32_t left_size = ((const struct TASK *)left)->entry->uncompressed_length;
    uint32_t right_size = ((const struct TASK *)right)->entry->uncompressed_length;
    return (left_size < right_size) - (left_size > right_size);
}


static bool
extract_entries(const struct CACHE *cache, const unsigned char *image, int dir_fd, uint64_t *contents)
{
    const struct ARCHIVE *archive = cache->pyi_ctx->archive;
    const struct TOC_ENTRY *entry = NULL;
    size_t num_tasks = cache_num_entries(archive);
    struct TASK *tasks = calloc(num_tasks + 1, sizeof(*tasks));
    uint64_t *digests = calloc(num_tasks + 1, sizeof(*digests));
    struct EXTRACTION extraction = {image + archive->pkg_offset, dir_fd, tasks, num_tasks, 0, false};

    extraction.failed = tasks == NULL || digests == NULL;
    for (size_t i = 0; i < num_tasks && !extraction.failed; i++) {
        entry = cache_next_entry(archive, entry);
        tasks[i] = (struct TASK){entry, &digests[i]};
    }
    if (!extraction.failed) {
        qsort(tasks, num_tasks, sizeof(*tasks), biggest_first);
        extract_in_threads(&extraction);
        *contents = digest_of_digests(digests, num_tasks);
    }
    free(tasks);
    free(digests);
    return !extraction.failed;
}


static bool
extract_all(const struct CACHE *cache, int dir_fd)
{
    size_t size;
    const unsigned char *image = cache_map_executable(cache->pyi_ctx, &size);
    struct SEAL seal;
    bool extracted = image != NULL && extract_entries(cache, image, dir_fd, &seal.contents);

    if (image != NULL) {
        munmap((void *)image, size);
    }
    return extracted && cache_read_metadata(cache, dir_fd, &seal.metadata)
           && write_file(dir_fd, SEAL_NAME, S_IRUSR | S_IWUSR, &seal, sizeof(seal));
}


/* Remove whatever `name` is in the folder. Nobody else can write there, so the path stays what it is. */
static void
remove_entry(const struct CACHE *cache, const char *name)
{
    char path[PYI_PATH_MAX];
    if (unlinkat(cache->folder_fd, name, 0) == 0) {
        return;
    }
    if (cache_join(path, cache->folder, name)) {
        pyi_recursive_rmdir(path);
    }
}


/* Move away first: while it is being removed, nobody may take it for complete. */
static void
retire(const struct CACHE *cache, const char *name)
{
    char retired[NAME_MAX];
    snprintf(retired, sizeof(retired), NEW_PREFIX "%d-old", (int)getpid());
    if (renameat(cache->folder_fd, name, cache->folder_fd, retired) == 0) {
        remove_entry(cache, retired);
    }
}


bool
cache_extract(const struct CACHE *cache)
{
    char name[NAME_MAX];
    bool extracted;
    int dir_fd;

    snprintf(name, sizeof(name), NEW_PREFIX "%d", (int)getpid());
    if (!pyi_cache_executable_is_intact(cache->pyi_ctx) || mkdirat(cache->folder_fd, name, S_IRWXU) < 0) {
        return false;
    }
    dir_fd = openat(cache->folder_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    extracted = dir_fd >= 0 && extract_all(cache, dir_fd);
    if (dir_fd >= 0) {
        close(dir_fd);
    }
    if (extracted) {
        retire(cache, cache->id); /* It is there, and no good. */
        extracted = renameat(cache->folder_fd, name, cache->folder_fd, cache->id) == 0;
    }
    if (!extracted) {
        remove_entry(cache, name);
    }
    return extracted;
}


static bool
is_other_id(const struct CACHE *cache, const char *name)
{
    size_t length = strlen(cache->id);
    return strlen(name) == length && strspn(name, "0123456789abcdef") == length && strcmp(name, cache->id) != 0;
}


/* Remove another version unless it is in use, or was lately. What has no seal was never complete. */
static void
remove_if_unused(const struct CACHE *cache, const char *name)
{
    char seal_name[PYI_PATH_MAX];
    struct stat status;
    int seal_fd;

    if (!cache_join(seal_name, name, SEAL_NAME)) {
        return;
    }
    seal_fd = openat(cache->folder_fd, seal_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (seal_fd < 0) {
        if (errno == ENOENT) {
            retire(cache, name);
        }
        return;
    }
    if (fstat(seal_fd, &status) == 0 && time(NULL) - status.st_mtime >= KEEP_UNUSED_SECONDS
        && flock(seal_fd, LOCK_EX | LOCK_NB) == 0) {
        retire(cache, name); /* Locked, so that nobody can begin to use it now. */
    }
    close(seal_fd);
}


/* The caller has the folder's lock, so whatever is called "new" belongs to a process that has ended. */
void
cache_remove_unused(const struct CACHE *cache)
{
    struct dirent *found;
    DIR *listing = opendir(cache->folder);
    if (listing == NULL) {
        return;
    }
    while ((found = readdir(listing)) != NULL) {
        if (strncmp(found->d_name, NEW_PREFIX, strlen(NEW_PREFIX)) == 0) {
            remove_entry(cache, found->d_name);
        } else if (is_other_id(cache, found->d_name)) {
            remove_if_unused(cache, found->d_name);
        }
    }
    closedir(listing);
}

#else
typedef int pyi_cache_extract_is_for_linux; /* ISO C wants something in every file. */
#endif
