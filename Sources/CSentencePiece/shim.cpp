#include "CSentencePiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <unordered_map>
#include <vector>

struct csp_processor {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

void report(char *error, const char *message) {
  if (error != nullptr) std::snprintf(error, CSP_ERROR_BYTES, "%s", message);
}

// Every entry point runs inside this: C and Swift callers cannot unwind a C++ exception.
template <typename Body>
bool guarded(char *error, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception &exception) {
    report(error, exception.what());
  } catch (...) {
    report(error, "unknown C++ exception");
  }
  return false;
}

bool succeeded(const sentencepiece::util::Status &status, char *error) {
  if (status.ok()) return true;
  report(error, status.ToString().c_str());
  return false;
}

template <typename Element>
bool copy_out(const Element *source, size_t count, Element **out, size_t *out_count, char *error) {
  // One element more than needed, so that an empty result is still a buffer.
  auto *buffer = static_cast<Element *>(std::malloc((count + 1) * sizeof(Element)));
  if (buffer == nullptr) {
    report(error, "out of memory");
    return false;
  }
  if (count > 0) std::memcpy(buffer, source, count * sizeof(Element));
  *out = buffer;
  *out_count = count;
  return true;
}

class CallbackSentences final : public sentencepiece::SentenceIterator {
 public:
  CallbackSentences(csp_next_sentence next, void *context) : next_(next), context_(context) { Next(); }
  bool done() const override { return done_; }
  void Next() override {
    const char *bytes = nullptr;
    size_t count = 0;
    done_ = !next_(context_, &bytes, &count);
    if (!done_) value_.assign(bytes, count);
  }
  const std::string &value() const override { return value_; }
  sentencepiece::util::Status status() const override { return sentencepiece::util::Status(); }

 private:
  csp_next_sentence next_;
  void *context_;
  bool done_ = false;
  std::string value_;
};

}  // namespace

bool csp_train(int32_t vocabulary, const char *control_symbols, csp_next_sentence next, void *context,
               uint8_t **model, size_t *model_bytes, char *error) {
  return guarded(error, [&] {
    CallbackSentences sentences(next, context);
    // The settings of Llama's tokenizer: nothing is normalised away, digits are single, unknown
    // characters become bytes. Sentences are handed over whole: the caller bounds them.
    const std::unordered_map<std::string, std::string> arguments = {
        {"model_type", "bpe"},
        {"vocab_size", std::to_string(vocabulary)},
        {"byte_fallback", "true"},
        {"character_coverage", "0.9999"},
        {"normalization_rule_name", "identity"},
        {"remove_extra_whitespaces", "false"},
        {"allow_whitespace_only_pieces", "true"},
        {"split_digits", "true"},
        {"max_sentence_length", "1048576"},
        {"unk_id", "0"},
        {"bos_id", "1"},
        {"eos_id", "2"},
        {"pad_id", "-1"},
        {"control_symbols", control_symbols},
        {"minloglevel", "2"},  // the library logs its progress to standard error otherwise
    };
    std::string serialized;
    if (!succeeded(sentencepiece::SentencePieceTrainer::Train(arguments, &sentences, &serialized), error)) return false;
    return copy_out(reinterpret_cast<const uint8_t *>(serialized.data()), serialized.size(), model, model_bytes, error);
  });
}

csp_processor *csp_load(const uint8_t *model, size_t model_bytes, char *error) {
  csp_processor *result = nullptr;
  guarded(error, [&] {
    auto processor = std::make_unique<csp_processor>();
    const absl::string_view serialized(reinterpret_cast<const char *>(model), model_bytes);
    if (!succeeded(processor->processor.LoadFromSerializedProto(serialized), error)) return false;
    if (!succeeded(processor->processor.status(), error)) return false;
    result = processor.release();
    return true;
  });
  return result;
}

void csp_close(csp_processor *processor) { delete processor; }

int32_t csp_vocabulary(const csp_processor *processor) { return processor->processor.GetPieceSize(); }

int32_t csp_id(const csp_processor *processor, const char *piece) {
  int32_t id = -1;
  guarded(nullptr, [&] {
    const int found = processor->processor.PieceToId(piece);
    // An unknown piece maps to unk: only an id that maps back names the piece.
    if (found >= 0 && processor->processor.IdToPiece(found) == piece) id = found;
    return true;
  });
  return id;
}

int32_t csp_unk(const csp_processor *processor) { return processor->processor.unk_id(); }
int32_t csp_bos(const csp_processor *processor) { return processor->processor.bos_id(); }
int32_t csp_eos(const csp_processor *processor) { return processor->processor.eos_id(); }
int32_t csp_pad(const csp_processor *processor) { return processor->processor.pad_id(); }

bool csp_is_control(const csp_processor *processor, int32_t id) {
  return id >= 0 && id < csp_vocabulary(processor) && processor->processor.IsControl(id);
}

bool csp_piece(const csp_processor *processor, int32_t id, char **bytes, size_t *count) {
  return guarded(nullptr, [&] {
    if (id < 0 || id >= csp_vocabulary(processor)) return false;
    const std::string &piece = processor->processor.IdToPiece(id);
    return copy_out(piece.data(), piece.size(), bytes, count, nullptr);
  });
}

bool csp_encode(const csp_processor *processor, const char *text, size_t text_bytes, int32_t **ids, size_t *count,
                char *error) {
  return guarded(error, [&] {
    std::vector<int> found;
    if (!succeeded(processor->processor.Encode(absl::string_view(text, text_bytes), &found), error)) return false;
    return copy_out(reinterpret_cast<const int32_t *>(found.data()), found.size(), ids, count, error);
  });
}

bool csp_decode(const csp_processor *processor, const int32_t *ids, size_t count, char **text, size_t *text_bytes,
                char *error) {
  return guarded(error, [&] {
    const int32_t vocabulary = csp_vocabulary(processor);
    for (size_t i = 0; i < count; i++) {
      if (ids[i] < 0 || ids[i] >= vocabulary) {
        report(error, "token id outside the vocabulary");
        return false;
      }
    }
    std::string found;
    if (!succeeded(processor->processor.Decode(std::vector<int>(ids, ids + count), &found), error)) return false;
    return copy_out(found.data(), found.size(), text, text_bytes, error);
  });
}

void csp_free(void *buffer) { std::free(buffer); }
