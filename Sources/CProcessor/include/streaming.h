// Sums and copies whose results are not read again soon: past the caches where the processor can, so that
// writing a line does not read it first.
#ifndef CPROCESSOR_STREAMING_H
#define CPROCESSOR_STREAMING_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// destination[i] = a[i] + b[i]; destination may be a or b.
void processor_add_streaming(float *destination, const float *a, const float *b, size_t count);
void processor_copy_streaming(void *destination, const void *source, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
