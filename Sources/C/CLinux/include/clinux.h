// What the Glibc module does not carry, and what needs the processor's own instructions.
#pragma once
#include <stddef.h>
#include <stdint.h>

// CRC-32C (Castagnoli), as iSCSI and ext4 use it. `crc` is 0 to start, or the result for the bytes before.
uint32_t clinux_crc32c(uint32_t crc, const void *bytes, size_t count);
