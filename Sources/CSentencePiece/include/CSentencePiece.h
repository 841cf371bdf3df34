// A C view of SentencePiece (libsentencepiece 0.1.97, a C++ library): train, load, encode, decode, look up.
// No C++ exception crosses this boundary. Functions that can fail return false (or -1) and write a
// zero-terminated message into `error` (CSP_ERROR_BYTES bytes). Buffers returned through `**` are the
// caller's and are given back with csp_free. Owner in Swift: TrainingData/Tokenizer.
#ifndef TRANSFUSION_CSENTENCEPIECE_H
#define TRANSFUSION_CSENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CSP_ERROR_BYTES = 512 };

typedef struct csp_processor csp_processor;

/// Hands out the next sentence (valid until the next call) or returns false at the end.
typedef bool (*csp_next_sentence)(void *context, const char **bytes, size_t *count);

/// Trains a BPE model with byte fallback: unk 0, bos 1, eos 2, then the control symbols in order.
/// `control_symbols` is comma separated. The serialized model comes back in `*model`.
bool csp_train(int32_t vocabulary, const char *control_symbols, csp_next_sentence next, void *context,
               uint8_t **model, size_t *model_bytes, char *error);

/// Loads a serialized model; NULL when it is not one. The handle may be used by several threads at once.
csp_processor *csp_load(const uint8_t *model, size_t model_bytes, char *error);
void csp_close(csp_processor *processor);

int32_t csp_vocabulary(const csp_processor *processor);
/// The id of a piece, or -1 where the vocabulary has no such piece.
int32_t csp_id(const csp_processor *processor, const char *piece);
/// Ids of the named special tokens, or -1 where the model has none.
int32_t csp_unk(const csp_processor *processor);
int32_t csp_bos(const csp_processor *processor);
int32_t csp_eos(const csp_processor *processor);
int32_t csp_pad(const csp_processor *processor);
bool csp_is_control(const csp_processor *processor, int32_t id);
bool csp_piece(const csp_processor *processor, int32_t id, char **bytes, size_t *count);

bool csp_encode(const csp_processor *processor, const char *text, size_t text_bytes, int32_t **ids, size_t *count,
                char *error);
bool csp_decode(const csp_processor *processor, const int32_t *ids, size_t count, char **text, size_t *text_bytes,
                char *error);

void csp_free(void *buffer);

#ifdef __cplusplus
}
#endif
#endif
