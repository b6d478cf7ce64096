/* Shimmy's addition to the PyInstaller bootloader: the part of libdeflate that decompresses, as one unit.
 * libdeflate is under the MIT licence (libdeflate/COPYING). It inflates three times as fast as zlib. */
#if defined(__linux__)
#include "libdeflate/lib/utils.c"
#include "libdeflate/lib/adler32.c"
#include "libdeflate/lib/crc32.c"
#include "libdeflate/lib/deflate_decompress.c"
#include "libdeflate/lib/zlib_decompress.c"
#include "libdeflate/lib/arm/cpu_features.c"
#include "libdeflate/lib/x86/cpu_features.c"
#else
typedef int pyi_libdeflate_is_for_linux; /* ISO C wants something in every file. */
#endif
