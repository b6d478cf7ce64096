/*
 * Shimmy's addition to the PyInstaller bootloader: one-file programs that extract themselves once.
 *
 * Distributed under the same terms as the bootloader: GNU General Public License, version 2 or later,
 * with exception for distributing the bootloader (COPYING.txt of PyInstaller).
 *
 * SPDX-License-Identifier: (GPL-2.0-or-later WITH Bootloader-exception)
 */
#ifndef PYI_CACHE_H
#define PYI_CACHE_H

#include <stdbool.h>

struct PYI_CONTEXT;

/* Make the cache directory the application's directory, extracting into it first where needed, and load Python's
 * library from it. False means: nothing has changed, go on as an ordinary one-file program. */
bool pyi_cache_use(struct PYI_CONTEXT *pyi_ctx);

/* Whether the executable is what the build wrote (its last four bytes are a CRC-32 of all before them). */
bool pyi_cache_executable_is_intact(const struct PYI_CONTEXT *pyi_ctx);

/* From now on, a library in `directory` finds the libraries that it needs in `directory`; NULL ends this. */
void pyi_needed_search(const char *directory);

#endif
