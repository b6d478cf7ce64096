/*
 * Shimmy's addition to the PyInstaller bootloader, see pyi_cache.c: the folder, and whether it can be trusted.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "pyi_cache_internal.h"

/* `path`, of PYI_PATH_MAX bytes, becomes parent/name; false when that is too long. */
bool
cache_join(char *path, const char *parent, const char *name)
{
    int length = snprintf(path, PYI_PATH_MAX, "%s/%s", parent, name);
    return length > 0 && length < PYI_PATH_MAX;
}


bool
cache_is_private(const struct stat *status)
{
    return status->st_uid == geteuid() && (status->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}


/* Whether nobody but us and root can exchange a part of `path`, which has no symbolic links. */
static bool
is_out_of_reach(const char *path)
{
    char part[PYI_PATH_MAX];
    struct stat status;
    size_t length = strlen(path);

    for (size_t end = 1; end <= length; end++) {
        if (end != 1 && end != length && path[end] != '/') {
            continue;
        }
        snprintf(part, sizeof(part), "%.*s", (int)end, path);
        if (lstat(part, &status) < 0 || !S_ISDIR(status.st_mode)
            || (status.st_uid != 0 && status.st_uid != geteuid())
            || ((status.st_mode & (S_IWGRP | S_IWOTH)) && !(status.st_mode & S_ISVTX))) {
            return false;
        }
    }
    return true;
}


/* The user's cache folder, made where it is missing; `path` gets it without symbolic links. */
static bool
find_base(char *path)
{
    char name[PYI_PATH_MAX];
    const char *cache_home = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *base;

    if (cache_home != NULL && cache_home[0] == '/') {
        base = cache_home;
    } else if (home != NULL && home[0] == '/' && cache_join(name, home, ".cache")) {
        base = name;
    } else {
        return false;
    }
    mkdir(base, S_IRWXU);
    return realpath(base, path) != NULL && is_out_of_reach(path);
}


/* Enter `name` below the folder, making it where it is missing. */
static bool
enter(struct CACHE *cache, const char *name, int length)
{
    char part[NAME_MAX], parent[PYI_PATH_MAX];
    struct stat status;
    int parent_fd = cache->folder_fd;

    snprintf(part, sizeof(part), "%.*s", length, name);
    memcpy(parent, cache->folder, sizeof(parent));
    mkdirat(parent_fd, part, S_IRWXU);
    cache->folder_fd = openat(parent_fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(parent_fd);
    return cache->folder_fd >= 0 && fstat(cache->folder_fd, &status) == 0 && cache_is_private(&status)
           && cache_join(cache->folder, parent, part);
}


/* Files of this file system can be mapped as code. */
static bool
allows_execution(int fd)
{
    struct statvfs status;
    return fstatvfs(fd, &status) == 0 && !(status.f_flag & ST_NOEXEC);
}


bool
cache_open_folder(struct CACHE *cache, const char *option)
{
    const char *slash;

    if (!find_base(cache->folder)) {
        return false;
    }
    cache->folder_fd = open(cache->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (; cache->folder_fd >= 0 && (slash = strchr(option, '/')) != NULL; option = slash + 1) {
        if (!enter(cache, option, (int)(slash - option))) {
            return false;
        }
    }
    cache->id = option;
    return cache->folder_fd >= 0 && allows_execution(cache->folder_fd);
}

#else
typedef int pyi_cache_folder_is_for_linux; /* ISO C wants something in every file. */
#endif
