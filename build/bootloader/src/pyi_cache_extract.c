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

enum { KEEP_UNUSED_SECONDS = 24 * 3600 }; /* Extracting again costs so little that there is no reason to keep more. */


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
extract_entry(const struct TOC_ENTRY *entry, const unsigned char *packed, int dir_fd, struct DIGEST *digest)
{
    size_t size = entry->uncompressed_length;
    struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
    void *room = malloc(size + 1); /* An empty file needs a pointer as well. */
    const void *data = decompressor && room ? unpack(decompressor, packed, entry, room, size) : NULL;
    bool extracted = data != NULL && write_entry(dir_fd, entry, data);

    if (extracted) {
        digest_update(digest, data, cache_size_on_disk(entry));
    }
    free(room);
    libdeflate_free_decompressor(decompressor);
    return extracted;
}


static bool
extract_all(const struct CACHE *cache, int dir_fd)
{
    const struct ARCHIVE *archive = cache->pyi_ctx->archive;
    const struct TOC_ENTRY *entry = NULL;
    size_t size;
    const unsigned char *image = cache_map_executable(cache->pyi_ctx, &size);
    struct DIGEST digest;
    struct SEAL seal;
    bool extracted = image != NULL;

    digest_begin(&digest);
    while (extracted && (entry = cache_next_entry(archive, entry)) != NULL) {
        extracted = extract_entry(entry, image + archive->pkg_offset + entry->offset, dir_fd, &digest);
    }
    if (image != NULL) {
        munmap((void *)image, size);
    }
    seal.contents = digest_value(&digest);
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
