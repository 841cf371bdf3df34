#include "sha256.h"

#include <openssl/evp.h>

csystem_sha256 *csystem_sha256_new(void) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  if (context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
    EVP_MD_CTX_free(context);
    context = NULL;
  }
  return (csystem_sha256 *)context;
}

int csystem_sha256_update(csystem_sha256 *hash, const void *bytes, size_t count) {
  return EVP_DigestUpdate((EVP_MD_CTX *)hash, bytes, count) == 1 ? 0 : -1;
}

int csystem_sha256_finish(csystem_sha256 *hash, uint8_t *digest) {
  unsigned int size = 0;
  return EVP_DigestFinal_ex((EVP_MD_CTX *)hash, digest, &size) == 1 && size == 32 ? 0 : -1;
}

void csystem_sha256_free(csystem_sha256 *hash) { EVP_MD_CTX_free((EVP_MD_CTX *)hash); }
