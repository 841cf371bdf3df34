// Pictures in memory: PNG (libpng) and JPEG (libturbojpeg) to packed 8-bit RGB, RGB to PNG, and the colour
// bitmaps of an emoji font (HarfBuzz shapes the code points: flags and skin tones are ligatures).
// Functions that can fail return false and write a zero-terminated message into `error`
// (CIM_ERROR_BYTES bytes). Buffers returned through `**` are given back with cim_free.
// Owner in Swift: TrainingData/RGBImage and TrainingData/EmojiFont.
#ifndef TRANSFUSION_CIMAGES_H
#define TRANSFUSION_CIMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CIM_ERROR_BYTES = 256 };

/// Decodes a PNG over a white background. A picture of more than `most_pixels` is refused before it is decoded.
bool cim_decode_png(const uint8_t *bytes, size_t count, size_t most_pixels, uint8_t **rgb, int32_t *width,
                    int32_t *height, char *error);
/// Decodes a JPEG (grey, colour or CMYK; the EXIF orientation is not applied). Cut-off data is an error.
bool cim_decode_jpeg(const uint8_t *bytes, size_t count, size_t most_pixels, uint8_t **rgb, int32_t *width,
                     int32_t *height, char *error);
bool cim_encode_png(const uint8_t *rgb, int32_t width, int32_t height, uint8_t **bytes, size_t *count, char *error);
void cim_free(void *buffer);

typedef struct cim_font cim_font;
/// Opens a font file; NULL when it cannot be read or holds no colour bitmaps.
cim_font *cim_font_open(const char *path, char *error);
void cim_font_close(cim_font *font);
/// The PNG file of the one glyph that a sequence of code points shapes to; false when the font has no single
/// glyph for it.
bool cim_font_png(const cim_font *font, const uint32_t *code_points, size_t count, uint8_t **bytes,
                  size_t *byte_count);

#endif
