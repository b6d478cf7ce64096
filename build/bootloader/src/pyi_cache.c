/*
 * Shimmy's addition to the PyInstaller bootloader: one-file programs that extract themselves once.
 *
 *     <cache>/<folder>/<id>/         everything that the executable holds; <id> stands for its exact bytes
 *     <cache>/<folder>/<id>/.seal    what was extracted (struct SEAL). A process that uses the directory has it locked
 *     <cache>/<folder>/.lock         held by the one process that extracts or removes
 *     <cache>/<folder>/.new-<pid>    being extracted, or being removed
 *
 * <cache> is $XDG_CACHE_HOME or $HOME/.cache; "<folder>/<id>" is the value of the run-time option pyi-cache-id.
 * A directory appears by one rename, when it is complete, and is never changed afterwards, only replaced. The files are
 * read and compared with the seal when anything about their metadata has changed since that was done last, and once
 * after each boot. Whatever is odd makes us return false, and the ordinary way of a one-file program is taken.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pyi_cache.h"
#include "pyi_cache_internal.h"
#include "pyi_archive.h"
#include "pyi_main.h"

#define LOCK_NAME ".lock"

enum { LOCK_WAIT_MS = 5000 }; /* Then the ordinary way is quicker. Extracting takes a tenth of a second. */


/* Never for ever: whoever has the lock may have been stopped. */
static bool
wait_for_lock(int lock_fd)
{
    const struct timespec pause = {0, 2 * 1000 * 1000};
    for (int waited_ms = 0; waited_ms < LOCK_WAIT_MS; waited_ms += 2) {
        if (flock(lock_fd, LOCK_EX | LOCK_NB) == 0) {
            return true;
        }
        if (errno != EWOULDBLOCK) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return false;
}


static int
open_or_extract(const struct CACHE *cache)
{
    int lock_fd, seal_fd = cache_open_valid(cache);

    if (seal_fd >= 0) {
        return seal_fd;
    }
    lock_fd = openat(cache->folder_fd, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (lock_fd < 0) {
        return -1;
    }
    if (wait_for_lock(lock_fd)) {
        seal_fd = cache_open_valid(cache); /* Another process may have been quicker. */
        if (seal_fd < 0) {
            cache_remove_unused(cache);
            if (cache_extract(cache)) {
                seal_fd = cache_open_valid(cache);
            }
        }
    }
    close(lock_fd);
    return seal_fd;
}


/* Also the proof that code can be loaded from there, which security modules may forbid. */
static bool
load_python(const struct PYI_CONTEXT *pyi_ctx)
{
    char path[PYI_PATH_MAX];
    if (!cache_join(path, pyi_ctx->application_home_dir, pyi_ctx->archive->python_libname)) {
        return false;
    }
    pyi_needed_search(pyi_ctx->application_home_dir);
    if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) == NULL) {
        pyi_needed_search(NULL);
        return false;
    }
    return true;
}


/* What the ordinary way tells its child processes must not reach ours: each finds the directory by itself. */
static void
clean_environment(void)
{
    static const char *const names[] = {
        "_PYI_ARCHIVE_FILE", "_PYI_APPLICATION_HOME_DIR", "_PYI_PARENT_PROCESS_LEVEL", "_PYI_LINUX_PROCESS_NAME",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        unsetenv(names[i]);
    }
}


/* A digit less or a slash in the id would be a build's mistake: then nothing is cached. */
static bool
is_usable(const char *option)
{
    const char *slash = strrchr(option, '/');
    return slash != NULL && strspn(slash + 1, "0123456789abcdef") == strlen(slash + 1) && strlen(slash + 1) >= 16;
}


bool
pyi_cache_use(struct PYI_CONTEXT *pyi_ctx)
{
    struct CACHE cache = {.pyi_ctx = pyi_ctx, .folder_fd = -1};
    char *home = pyi_ctx->application_home_dir;
    int seal_fd = -1;

    /* With the privileges of another user, that user's environment must not choose what is executed. */
    if (!is_usable(pyi_ctx->cache_id) || pyi_ctx->has_elevated_privileges || getauxval(AT_SECURE)) {
        return false;
    }
    if (cache_open_folder(&cache, pyi_ctx->cache_id)) {
        seal_fd = open_or_extract(&cache);
    }
    if (cache.folder_fd >= 0) {
        close(cache.folder_fd);
    }
    if (seal_fd < 0) {
        return false;
    }
    if (!cache_join(home, cache.folder, cache.id) || !load_python(pyi_ctx)) {
        close(seal_fd);
        return false;
    }
    clean_environment();
    pyi_ctx->process_level = PYI_PROCESS_LEVEL_MAIN;
    return true;
}

#else
typedef int pyi_cache_is_for_linux; /* ISO C wants something in every file. */
#endif
