// SHA-256 through libcrypto's EVP interface, which picks the processor's instructions. The Swift owner is
// Digests.SHA256.
#ifndef CSYSTEM_SHA256_H
#define CSYSTEM_SHA256_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Opaque: EVP_MD_CTX is an incomplete type whose constructors are macros in some versions.
typedef struct csystem_sha256 csystem_sha256;

// NULL when out of memory or when libcrypto offers no SHA-256.
csystem_sha256 *csystem_sha256_new(void);
// 0 on success.
int csystem_sha256_update(csystem_sha256 *hash, const void *bytes, size_t count);
// Writes 32 bytes; the hash can only be freed afterwards.
int csystem_sha256_finish(csystem_sha256 *hash, uint8_t *digest);
void csystem_sha256_free(csystem_sha256 *hash);

#ifdef __cplusplus
}
#endif
#endif
