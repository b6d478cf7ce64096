/*
 * Shimmy's addition to the PyInstaller bootloader: bundled libraries find each other without LD_LIBRARY_PATH.
 *
 * The variable is read once, when a process begins, so the ordinary bootloader starts a second process to have it
 * read, and every program started from there inherits it. Here dlopen() itself is replaced: before it loads a library
 * of the application's directory, it loads those that the library needs and the directory has. The dynamic linker
 * then finds them by name among what is loaded. Nothing is loaded before something asks for it.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pyi_cache.h"
#include "pyi_global.h"

typedef void *(*dlopen_function)(const char *, int);

static const char *search_directory;


/* libc's own dlopen(). */
static void *
system_dlopen(const char *filename, int mode)
{
    static dlopen_function next;
    if (next == NULL) {
        *(void **)&next = dlsym(RTLD_NEXT, "dlopen");
    }
    return next(filename, mode);
}


/* Load the library called `name` when the directory has it and it is not loaded yet. */
static void
load_bundled(const char *name)
{
    char path[PYI_PATH_MAX];
    if (strchr(name, '/') || snprintf(path, sizeof(path), "%s/%s", search_directory, name) >= (int)sizeof(path)) {
        return;
    }
    if (access(path, R_OK) == 0 && system_dlopen(path, RTLD_LAZY | RTLD_NOLOAD) == NULL) {
        dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    }
}


/* Where in the file the thing is that will be at `address` in memory; 0 when nowhere. */
static size_t
offset_in_file(const ElfW(Phdr) *segments, size_t num_segments, ElfW(Addr) address)
{
    for (const ElfW(Phdr) *segment = segments; segment < segments + num_segments; segment++) {
        if (segment->p_type == PT_LOAD && address >= segment->p_vaddr
            && address - segment->p_vaddr < segment->p_filesz) {
            return address - segment->p_vaddr + segment->p_offset;
        }
    }
    return 0;
}


static void
load_needed_of_image(const char *image)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)image;
    const ElfW(Phdr) *segments = (const ElfW(Phdr) *)(image + header->e_phoff);
    const ElfW(Dyn) *dynamic = NULL, *entry;
    size_t strings = 0;

    for (int i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type == PT_DYNAMIC) {
            dynamic = (const ElfW(Dyn) *)(image + segments[i].p_offset);
        }
    }
    for (entry = dynamic; entry && entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_STRTAB) {
            strings = offset_in_file(segments, header->e_phnum, entry->d_un.d_ptr);
        }
    }
    for (entry = dynamic; strings && entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_NEEDED) {
            load_bundled(image + strings + entry->d_un.d_val);
        }
    }
}


static void
load_needed(const char *filename)
{
    struct stat status;
    int fd = open(filename, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    if (fstat(fd, &status) == 0 && status.st_size > (off_t)sizeof(ElfW(Ehdr))) {
        char *image = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (image != MAP_FAILED) {
            if (memcmp(image, ELFMAG, SELFMAG) == 0) {
                load_needed_of_image(image);
            }
            munmap(image, status.st_size);
        }
    }
    close(fd);
}


/* Every call of dlopen() in this process comes here: what the executable defines goes before what libc defines. */
__attribute__((visibility("default"))) void *
dlopen(const char *filename, int mode)
{
    size_t length = search_directory ? strlen(search_directory) : 0;
    if (length && filename && strncmp(filename, search_directory, length) == 0 && filename[length] == '/') {
        load_needed(filename);
    }
    return system_dlopen(filename, mode);
}


void
pyi_needed_search(const char *directory)
{
    search_directory = directory;
}

#else
typedef int pyi_needed_is_for_linux; /* ISO C wants something in every file. */
#endif
