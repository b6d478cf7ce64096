/*
 * Shimmy's addition to the PyInstaller bootloader: what the files of the cache directory, pyi_cache*.c, share.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#ifndef PYI_CACHE_INTERNAL_H
#define PYI_CACHE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pyi_global.h"

struct PYI_CONTEXT;
struct ARCHIVE;
struct TOC_ENTRY;
struct stat;

#define SEAL_NAME ".seal"

struct CACHE
{
    const struct PYI_CONTEXT *pyi_ctx;
    char folder[PYI_PATH_MAX]; /* Absolute, without symbolic links */
    int folder_fd;
    const char *id;
};

/* 256 bits of state in four lanes, as in xxHash: fast, and any change within one word is sure to show. */
struct DIGEST
{
    uint64_t lanes[4];
};

struct SEAL
{
    uint64_t contents; /* Digest of the digests of all files */
    uint64_t metadata; /* Digest of their metadata, of the executable's, and of the boot, when they were last read */
};

/* pyi_cache_folder.c */
bool cache_open_folder(struct CACHE *cache, const char *option);
bool cache_is_private(const struct stat *status);
bool cache_join(char *path, const char *parent, const char *name);

/* pyi_cache_digest.c */
void digest_begin(struct DIGEST *digest);
void digest_update(struct DIGEST *digest, const void *data, size_t length);
uint64_t digest_value(const struct DIGEST *digest);
uint64_t digest_of_digests(const uint64_t *digests, size_t count);

/* pyi_cache_check.c */
const struct TOC_ENTRY *cache_next_entry(const struct ARCHIVE *archive, const struct TOC_ENTRY *entry);
size_t cache_num_entries(const struct ARCHIVE *archive);
size_t cache_size_on_disk(const struct TOC_ENTRY *entry);
const unsigned char *cache_map_executable(const struct PYI_CONTEXT *pyi_ctx, size_t *size);
bool cache_read_metadata(const struct CACHE *cache, int dir_fd, uint64_t *value);
int cache_open_valid(const struct CACHE *cache);

/* pyi_cache_extract.c */
bool cache_extract(const struct CACHE *cache);
void cache_remove_unused(const struct CACHE *cache);

#endif
