#include "CImages.h"

#include <harfbuzz/hb-ot.h>
#include <harfbuzz/hb.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

static bool fail(char *error, const char *message) {
  snprintf(error, CIM_ERROR_BYTES, "%s", message);
  return false;
}

static bool check_size(size_t width, size_t height, size_t most_pixels, char *error) {
  if (width == 0 || height == 0) return fail(error, "the picture is empty");
  // What JPEG allows. The libraries hold whole rows, some of them of 8 bytes a pixel.
  if (width > 65535 || height > 65535) {
    snprintf(error, CIM_ERROR_BYTES, "%zu x %zu pixels has a side above the limit of 65535", width, height);
    return false;
  }
  if (width > most_pixels / height) {
    snprintf(error, CIM_ERROR_BYTES, "%zu x %zu pixels is more than the limit of %zu", width, height, most_pixels);
    return false;
  }
  return true;
}

// The chunks of a PNG that its pixels come from. libpng asks for the memory that a chunk claims to need, and unpacks
// texts and colour profiles whatever their size: none of that reaches it. NULL when a chunk is cut off.
static uint8_t *pixel_chunks(const uint8_t *bytes, size_t count, size_t *kept, char *error) {
  static const char wanted[][5] = {"IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "sBIT"};
  uint8_t *result = malloc(count);
  if (result == NULL) {
    fail(error, "out of memory");
    return NULL;
  }
  memcpy(result, bytes, *kept = count < 8 ? count : 8);
  for (size_t at = 8; at < count;) {
    const size_t left = count - at;
    const size_t size = left < 12 ? 0
                                  : (size_t)bytes[at] << 24 | (size_t)bytes[at + 1] << 16 | (size_t)bytes[at + 2] << 8 |
                                        (size_t)bytes[at + 3];
    if (left < 12 || size > left - 12) {
      fail(error, "a chunk is cut off");
      free(result);
      return NULL;
    }
    // An upper-case letter says that a chunk may not be left out: libpng refuses those that it does not know.
    bool want = (bytes[at + 4] & 0x20) == 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
      if (memcmp(bytes + at + 4, wanted[i], 4) == 0) want = true;
    if (want) {
      memcpy(result + *kept, bytes + at, size + 12);
      *kept += size + 12;
    }
    if (memcmp(bytes + at + 4, "IEND", 4) == 0) break;
    at += size + 12;
  }
  return result;
}

static bool decode_chunks(const uint8_t *bytes, size_t count, size_t most_pixels, uint8_t **rgb, int32_t *width,
                          int32_t *height, char *error) {
  // libpng's simplified interface keeps its longjmp inside the library and returns 0 instead.
  png_image image;
  memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&image, bytes, count)) return fail(error, image.message);
  if (!check_size(image.width, image.height, most_pixels, error)) {
    png_image_free(&image);
    return false;
  }
  // IHDR precedes all else: its bits of a sample and colour type. Deflate packs 1032 bytes into one at best: a file
  // that is shorter is cut off, and must not make us ask for the memory of a picture.
  static const size_t samples[7] = {1, 0, 3, 1, 2, 0, 4};
  const size_t bits = count > 25 && bytes[25] < 7 ? bytes[24] * samples[bytes[25]] : 1;
  if ((size_t)image.width * image.height / 8 * bits / 1032 > count) {
    snprintf(error, CIM_ERROR_BYTES, "%zu bytes cannot hold %u x %u pixels", count, image.width, image.height);
    png_image_free(&image);
    return false;
  }
  image.format = PNG_FORMAT_RGB;
  uint8_t *pixels = malloc(PNG_IMAGE_SIZE(image));
  if (pixels == NULL) {
    png_image_free(&image);
    return fail(error, "out of memory");
  }
  const png_color white = {255, 255, 255};
  if (!png_image_finish_read(&image, &white, pixels, 0, NULL)) {
    free(pixels);
    return fail(error, image.message);
  }
  *rgb = pixels;
  *width = (int32_t)image.width;
  *height = (int32_t)image.height;
  return true;
}

bool cim_decode_png(const uint8_t *bytes, size_t count, size_t most_pixels, uint8_t **rgb, int32_t *width,
                    int32_t *height, char *error) {
  size_t kept = 0;
  uint8_t *chunks = pixel_chunks(bytes, count, &kept, error);
  if (chunks == NULL) return false;
  const bool done = decode_chunks(chunks, kept, most_pixels, rgb, width, height, error);
  free(chunks);
  return done;
}

bool cim_decode_jpeg(const uint8_t *bytes, size_t count, size_t most_pixels, uint8_t **rgb, int32_t *width,
                     int32_t *height, char *error) {
  if (count > (size_t)1 << 31) return fail(error, "the file is larger than 2 GiB");
  tjhandle decoder = tjInitDecompress();
  if (decoder == NULL) return fail(error, "the JPEG decoder could not be made");
  uint8_t *pixels = NULL;
  bool done = false;
  int w = 0, h = 0, sampling = 0, space = 0;
  if (tjDecompressHeader3(decoder, bytes, count, &w, &h, &sampling, &space) != 0) {
    fail(error, tjGetErrorStr2(decoder));
    goto end;
  }
  if (w <= 0 || h <= 0) {
    fail(error, "the picture is empty");
    goto end;
  }
  if (!check_size((size_t)w, (size_t)h, most_pixels, error)) goto end;
  // Every 8 x 8 pixels take a bit at least (arithmetic coding could take less, and is not in use): a file that is
  // shorter is cut off, and must not make us fill in millions of grey pixels.
  if ((size_t)w * (size_t)h / 512 > count) {
    snprintf(error, CIM_ERROR_BYTES, "%zu bytes cannot hold %d x %d pixels", count, w, h);
    goto end;
  }
  const bool cmyk = space == TJCS_CMYK || space == TJCS_YCCK;
  const size_t area = (size_t)w * (size_t)h;
  pixels = malloc(area * (cmyk ? 4 : 3));
  if (pixels == NULL) {
    fail(error, "out of memory");
    goto end;
  }
  // LIMITSCANS: a progressive file may not ask for thousands of passes over a large picture.
  const int flags = TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS;
  if (tjDecompress2(decoder, bytes, count, pixels, w, 0, h, cmyk ? TJPF_CMYK : TJPF_RGB, flags) != 0) {
    // Warnings are about oddities that leave the picture whole, except for data that ends too early.
    const char *message = tjGetErrorStr2(decoder);
    if (tjGetErrorCode(decoder) != TJERR_WARNING || strstr(message, "Premature") != NULL) {
      fail(error, message);
      goto end;
    }
  }
  if (cmyk) {
    // Adobe's files hold inverted inks, so that 255 is no ink: R = C K / 255.
    for (size_t i = 0; i < area; i++)
      for (size_t c = 0; c < 3; c++) pixels[3 * i + c] = (uint8_t)((pixels[4 * i + c] * pixels[4 * i + 3] + 127) / 255);
  }
  *rgb = pixels;
  *width = w;
  *height = h;
  pixels = NULL;
  done = true;
end:
  free(pixels);
  tjDestroy(decoder);
  return done;
}

bool cim_encode_png(const uint8_t *rgb, int32_t width, int32_t height, uint8_t **bytes, size_t *count, char *error) {
  png_image image;
  memset(&image, 0, sizeof image);
  image.version = PNG_IMAGE_VERSION;
  image.width = (png_uint_32)width;
  image.height = (png_uint_32)height;
  image.format = PNG_FORMAT_RGB;
  image.flags = PNG_IMAGE_FLAG_FAST;  // somewhat larger files in a fraction of the time
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  uint8_t *buffer = malloc(size);
  if (buffer == NULL) return fail(error, "out of memory");
  if (!png_image_write_to_memory(&image, buffer, &size, 0, rgb, 0, NULL)) {
    free(buffer);
    return fail(error, image.message);
  }
  *bytes = buffer;
  *count = size;
  return true;
}

void cim_free(void *buffer) { free(buffer); }

struct cim_font {
  hb_face_t *face;
  hb_font_t *font;
};

cim_font *cim_font_open(const char *path, char *error) {
  hb_blob_t *blob = hb_blob_create_from_file_or_fail(path);
  if (blob == NULL) {
    fail(error, "the file cannot be read");
    return NULL;
  }
  hb_face_t *face = hb_face_create(blob, 0);
  hb_blob_destroy(blob);
  if (!hb_ot_color_has_png(face)) {
    hb_face_destroy(face);
    fail(error, "the font holds no colour bitmaps (CBDT)");
    return NULL;
  }
  cim_font *result = malloc(sizeof *result);
  if (result == NULL) {
    hb_face_destroy(face);
    fail(error, "out of memory");
    return NULL;
  }
  result->face = face;
  result->font = hb_font_create(face);
  return result;
}

void cim_font_close(cim_font *font) {
  hb_font_destroy(font->font);
  hb_face_destroy(font->face);
  free(font);
}

bool cim_font_png(const cim_font *font, const uint32_t *code_points, size_t count, uint8_t **bytes,
                  size_t *byte_count) {
  if (count == 0 || count > 64) return false;
  hb_buffer_t *buffer = hb_buffer_create();
  hb_buffer_add_codepoints(buffer, code_points, (int)count, 0, (int)count);
  hb_buffer_guess_segment_properties(buffer);
  // Variation selectors and joiners that no ligature took leave no glyph of their own.
  hb_buffer_set_flags(buffer, HB_BUFFER_FLAG_REMOVE_DEFAULT_IGNORABLES);
  hb_shape(font->font, buffer, NULL, 0);
  unsigned int glyphs = 0;
  const hb_glyph_info_t *info = hb_buffer_get_glyph_infos(buffer, &glyphs);
  bool found = false;
  if (glyphs == 1 && info[0].codepoint != 0) {
    hb_blob_t *png = hb_ot_color_glyph_reference_png(font->font, info[0].codepoint);
    unsigned int size = 0;
    const char *data = hb_blob_get_data(png, &size);
    if (size > 0 && (*bytes = malloc(size)) != NULL) {
      memcpy(*bytes, data, size);
      *byte_count = size;
      found = true;
    }
    hb_blob_destroy(png);
  }
  hb_buffer_destroy(buffer);
  return found;
}
