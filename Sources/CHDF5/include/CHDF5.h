// What Swift cannot see of HDF5: its types and defaults are macros that call H5open, and the version-mapped
// functions are macros too. One line each, with the reason; the Swift owner is the module HDF5.
#ifndef CHDF5_H
#define CHDF5_H

#include <hdf5/serial/hdf5.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Type identifiers: macros around globals that exist only after H5open.
hid_t chdf5_native_float(void);
hid_t chdf5_native_double(void);
hid_t chdf5_native_int32(void);
hid_t chdf5_native_int64(void);
hid_t chdf5_native_uint8(void);
hid_t chdf5_file_float32(void);
hid_t chdf5_file_float64(void);
hid_t chdf5_file_int32(void);
hid_t chdf5_file_int64(void);
hid_t chdf5_file_uint8(void);

// Opens the library, forbids filter plugins (a file must not make us load code). Negative on failure.
int chdf5_start(void);
// Error printing is per thread in thread-safe builds, so it is switched off at every entry.
void chdf5_quiet(void);
// Outermost and innermost message of the calling thread's error stack.
void chdf5_message(char *buffer, size_t size);

// Property lists: their classes are macros.
hid_t chdf5_file_access(int for_writing);
hid_t chdf5_create_file(const char *path, hid_t access);
hid_t chdf5_open_file(const char *path, hid_t access);
hid_t chdf5_create_group(hid_t parent, const char *name);
// Contiguous, allocated at once, never filled, without times: the same content makes the same bytes.
hid_t chdf5_create_dataset(hid_t parent, const char *name, hid_t type, hid_t space);
hid_t chdf5_create_attribute(hid_t object, const char *name, hid_t type, hid_t space);
hid_t chdf5_open_object(hid_t parent, const char *name);
hid_t chdf5_open_attribute(hid_t object, const char *name);
hid_t chdf5_string_type(size_t size);

enum { CHDF5_ABSENT = 0, CHDF5_HARD = 1, CHDF5_SOFT = 2, CHDF5_EXTERNAL = 3, CHDF5_OTHER_LINK = 4 };
// Kind of the link `name` in `group`; negative on error. H5Lget_info is version-mapped.
int chdf5_link_kind(hid_t group, const char *name);
enum { CHDF5_GROUP = 1, CHDF5_DATASET = 2, CHDF5_OTHER_OBJECT = 3 };
int chdf5_object_kind(hid_t object);

int64_t chdf5_child_count(hid_t group);
// Name of child `index` in name order; its length, or negative on error. H5_INDEX_NAME order is stable.
int64_t chdf5_child_name(hid_t group, uint64_t index, char *buffer, size_t size);

enum { CHDF5_CONTIGUOUS = 1, CHDF5_COMPACT = 2, CHDF5_CHUNKED = 3, CHDF5_VIRTUAL = 4 };
int chdf5_layout(hid_t dataset);
// Number of external files a dataset's bytes lie in; negative on error.
int chdf5_external_count(hid_t dataset);
// Offset of the bytes of a contiguous dataset; UINT64_MAX when it has none.
uint64_t chdf5_file_offset(hid_t dataset);

enum {
  CHDF5_OTHER_TYPE = 0,
  CHDF5_FLOAT32 = 1,
  CHDF5_FLOAT64 = 2,
  CHDF5_INT32 = 3,
  CHDF5_INT64 = 4,
  CHDF5_UINT8 = 5,
  CHDF5_OTHER_NUMBER = 6
};
// The dataset's type in the file; the named ones are little-endian.
int chdf5_element_type(hid_t dataset);
// H5S_ALL and H5P_DEFAULT are macros with casts.
int chdf5_read_all(hid_t dataset, hid_t memory_type, void *bytes);
int chdf5_write_all(hid_t dataset, hid_t memory_type, const void *bytes);
// A scalar string attribute of fixed or variable length as NUL-terminated bytes; its length, -1 on error,
// -2 when it is no string, -3 when it does not fit.
int64_t chdf5_read_string(hid_t attribute, char *buffer, size_t size);
int64_t chdf5_attribute_elements(hid_t attribute);
int chdf5_attribute_exists(hid_t object, const char *name);

#ifdef __cplusplus
}
#endif
#endif
