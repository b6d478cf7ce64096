/*
 * Shimmy's addition to the PyInstaller bootloader, see pyi_cache.c: a fast digest, against accidents only.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#if defined(__linux__)

#define _GNU_SOURCE
#include <string.h>

#include "pyi_cache_internal.h"

void
digest_begin(struct DIGEST *digest)
{
    for (int i = 0; i < 4; i++) {
        digest->lanes[i] = 0x9E3779B185EBCA87u * (uint64_t)(i + 1);
    }
}


static void
digest_block(struct DIGEST *digest, const unsigned char *block)
{
    for (int i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, block + 8 * i, 8);
        word = digest->lanes[i] + word * 0xC2B2AE3D27D4EB4Fu;
        digest->lanes[i] = (word << 31 | word >> 33) * 0x9E3779B185EBCA87u;
    }
}


/* The last piece of something may have any length, those before it a multiple of 32. */
void
digest_update(struct DIGEST *digest, const void *data, size_t length)
{
    const unsigned char *position = data;
    unsigned char last[32] = {0};

    for (; length >= sizeof(last); position += sizeof(last), length -= sizeof(last)) {
        digest_block(digest, position);
    }
    if (length > 0) {
        memcpy(last, position, length);
        digest_block(digest, last);
    }
}


uint64_t
digest_value(const struct DIGEST *digest)
{
    uint64_t value = 0;
    for (int i = 0; i < 4; i++) {
        value = (value << 17 | value >> 47) ^ digest->lanes[i];
    }
    return value;
}

/* Of several things, each of which has one. */
uint64_t
digest_of_digests(const uint64_t *digests, size_t count)
{
    struct DIGEST digest;
    digest_begin(&digest);
    digest_update(&digest, digests, count * sizeof(*digests));
    return digest_value(&digest);
}

#else
typedef int pyi_cache_digest_is_for_linux; /* ISO C wants something in every file. */
#endif
