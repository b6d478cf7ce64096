/*
 * Shimmy's addition to the PyInstaller bootloader, see pyi_cache.c: whether what was extracted is still good.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <fcntl.h>
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
#include "libdeflate/libdeflate.h"

enum {
    USED_GRANULARITY_SECONDS = 3600, /* The seal's modification time says when the directory was last used. */
    CHUNK = 64 * 1024,               /* A multiple of 32, for digest_update() */
};


static bool
is_extractable(const struct TOC_ENTRY *entry)
{
    return entry->typecode == ARCHIVE_ITEM_BINARY || entry->typecode == ARCHIVE_ITEM_DATA
           || entry->typecode == ARCHIVE_ITEM_ZIPFILE || entry->typecode == ARCHIVE_ITEM_SYMLINK;
}


/* The first extractable entry after `entry`, the first of all after NULL; NULL when there is none. */
const struct TOC_ENTRY *
cache_next_entry(const struct ARCHIVE *archive, const struct TOC_ENTRY *entry)
{
    entry = entry ? pyi_archive_next_toc_entry(archive, entry) : archive->toc;
    while (entry < archive->toc_end && !is_extractable(entry)) {
        entry = pyi_archive_next_toc_entry(archive, entry);
    }
    return entry < archive->toc_end ? entry : NULL;
}


size_t
cache_num_entries(const struct ARCHIVE *archive)
{
    size_t count = 0;
    for (const struct TOC_ENTRY *entry = NULL; (entry = cache_next_entry(archive, entry)) != NULL;) {
        count++;
    }
    return count;
}


/* A symbolic link's target is stored with its terminating zero. */
size_t
cache_size_on_disk(const struct TOC_ENTRY *entry)
{
    return entry->uncompressed_length - (entry->typecode == ARCHIVE_ITEM_SYMLINK ? 1 : 0);
}


static void
digest_status(struct DIGEST *digest, const struct stat *status)
{
    const uint64_t facts[] = {
        status->st_dev, status->st_ino, status->st_mode, status->st_size,
        status->st_mtim.tv_sec, status->st_mtim.tv_nsec, status->st_ctim.tv_sec, status->st_ctim.tv_nsec,
    };
    digest_update(digest, facts, sizeof(facts));
}


/* What no power cut outlives: afterwards the files are read again, since the disk may have kept their metadata only.
 * Where the system does not tell, no two starts are of the same boot. */
static void
digest_boot(struct DIGEST *digest)
{
    union {
        char text[64];
        struct timespec now;
    } boot = {{0}};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, boot.text, sizeof(boot.text)) <= 0) {
        clock_gettime(CLOCK_MONOTONIC, &boot.now);
    }
    if (fd >= 0) {
        close(fd);
    }
    digest_update(digest, &boot, sizeof(boot));
}


/* False when an entry is missing, has another size or type, or is not ours alone to write. */
bool
cache_read_metadata(const struct CACHE *cache, int dir_fd, uint64_t *value)
{
    const struct ARCHIVE *archive = cache->pyi_ctx->archive;
    const struct TOC_ENTRY *entry = NULL;
    struct DIGEST digest;
    struct stat status;

    digest_begin(&digest);
    digest_boot(&digest);
    if (stat(cache->pyi_ctx->executable_filename, &status) < 0) {
        return false;
    }
    digest_status(&digest, &status);
    while ((entry = cache_next_entry(archive, entry)) != NULL) {
        bool is_link = entry->typecode == ARCHIVE_ITEM_SYMLINK;
        if (fstatat(dir_fd, entry->name, &status, AT_SYMLINK_NOFOLLOW) < 0
            || !(is_link ? S_ISLNK(status.st_mode) : S_ISREG(status.st_mode) && cache_is_private(&status))
            || (uint64_t)status.st_size != cache_size_on_disk(entry)) {
            return false;
        }
        digest_status(&digest, &status);
    }
    *value = digest_value(&digest);
    return true;
}


static bool
digest_file(uint64_t *value, int dir_fd, const struct TOC_ENTRY *entry, unsigned char *chunk)
{
    ssize_t length;
    int fd;
    struct DIGEST digest;

    digest_begin(&digest);
    if (entry->typecode == ARCHIVE_ITEM_SYMLINK) {
        length = readlinkat(dir_fd, entry->name, (char *)chunk, CHUNK);
        digest_update(&digest, chunk, length > 0 ? length : 0);
        *value = digest_value(&digest);
        return length >= 0;
    }
    fd = openat(dir_fd, entry->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    while ((length = read(fd, chunk, CHUNK)) > 0) {
        digest_update(&digest, chunk, length);
    }
    close(fd);
    *value = digest_value(&digest);
    return length == 0;
}


static bool
read_contents(const struct CACHE *cache, int dir_fd, uint64_t *value)
{
    const struct ARCHIVE *archive = cache->pyi_ctx->archive;
    const struct TOC_ENTRY *entry = NULL;
    size_t count = cache_num_entries(archive);
    uint64_t *digests = calloc(count + 1, sizeof(*digests));
    unsigned char chunk[CHUNK];
    bool read = digests != NULL;

    for (size_t i = 0; i < count && read; i++) {
        entry = cache_next_entry(archive, entry);
        read = digest_file(&digests[i], dir_fd, entry, chunk);
    }
    if (read) {
        *value = digest_of_digests(digests, count);
    }
    free(digests);
    return read;
}


/* The whole executable; nobody can write to it while it runs. NULL on failure. */
const unsigned char *
cache_map_executable(const struct PYI_CONTEXT *pyi_ctx, size_t *size)
{
    void *image = MAP_FAILED;
    struct stat status;
    int fd = open(pyi_ctx->executable_filename, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return NULL;
    }
    if (fstat(fd, &status) == 0 && status.st_size > 4) {
        *size = status.st_size;
        image = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    close(fd);
    return image == MAP_FAILED ? NULL : image;
}


bool
pyi_cache_executable_is_intact(const struct PYI_CONTEXT *pyi_ctx)
{
    size_t size;
    uint32_t stored = 0;
    const unsigned char *image = cache_map_executable(pyi_ctx, &size);
    bool intact;

    if (image == NULL) {
        return false;
    }
    for (size_t i = size - 4; i < size; i++) {
        stored = stored << 8 | image[i];
    }
    intact = libdeflate_crc32(0, image, size - 4) == stored;
    munmap((void *)image, size);
    return intact;
}


/* Whether the directory holds what was extracted; a check that had to read everything is remembered in the seal. */
static bool
matches_seal(const struct CACHE *cache, int dir_fd, int seal_fd)
{
    struct SEAL seal;
    uint64_t metadata, contents;
    ssize_t written;

    if (pread(seal_fd, &seal, sizeof(seal), 0) != sizeof(seal) || !cache_read_metadata(cache, dir_fd, &metadata)) {
        return false;
    }
    if (metadata == seal.metadata) {
        return true;
    }
    if (!read_contents(cache, dir_fd, &contents) || contents != seal.contents
        || !pyi_cache_executable_is_intact(cache->pyi_ctx)) {
        return false;
    }
    seal.metadata = metadata;
    written = pwrite(seal_fd, &seal, sizeof(seal), 0); /* Fails in a read-only cache, which costs time only. */
    (void)written;
    return true;
}


/* Say that the directory is in use, for cache_remove_unused(). */
static void
touch(int seal_fd)
{
    struct stat status;
    if (fstat(seal_fd, &status) == 0 && time(NULL) - status.st_mtime > USED_GRANULARITY_SECONDS) {
        futimens(seal_fd, NULL);
    }
}


/* Between our opening it and our locking it, another process may have moved the directory away. */
static bool
is_still_in_place(const struct CACHE *cache, const struct stat *status)
{
    struct stat now;
    return fstatat(cache->folder_fd, cache->id, &now, AT_SYMLINK_NOFOLLOW) == 0
           && now.st_ino == status->st_ino && now.st_dev == status->st_dev;
}


/* The locked seal of a directory that is there and good, else -1. The lock lasts as long as the process. */
int
cache_open_valid(const struct CACHE *cache)
{
    struct stat status;
    int seal_fd;
    int dir_fd = openat(cache->folder_fd, cache->id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (dir_fd < 0) {
        return -1;
    }
    seal_fd = openat(dir_fd, SEAL_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (seal_fd < 0) {
        seal_fd = openat(dir_fd, SEAL_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (seal_fd >= 0
        && !(flock(seal_fd, LOCK_SH | LOCK_NB) == 0 && fstat(dir_fd, &status) == 0 && cache_is_private(&status)
             && is_still_in_place(cache, &status) && matches_seal(cache, dir_fd, seal_fd))) {
        close(seal_fd);
        seal_fd = -1;
    }
    close(dir_fd);
    if (seal_fd >= 0) {
        touch(seal_fd);
    }
    return seal_fd;
}

#else
typedef int pyi_cache_check_is_for_linux; /* ISO C wants something in every file. */
#endif
