#include "CHDF5.h"

#include <stdio.h>
#include <string.h>

hid_t chdf5_native_float(void) { return H5T_NATIVE_FLOAT; }
hid_t chdf5_native_double(void) { return H5T_NATIVE_DOUBLE; }
hid_t chdf5_native_int32(void) { return H5T_NATIVE_INT32; }
hid_t chdf5_native_int64(void) { return H5T_NATIVE_INT64; }
hid_t chdf5_native_uint8(void) { return H5T_NATIVE_UINT8; }
hid_t chdf5_file_float32(void) { return H5T_IEEE_F32LE; }
hid_t chdf5_file_float64(void) { return H5T_IEEE_F64LE; }
hid_t chdf5_file_int32(void) { return H5T_STD_I32LE; }
hid_t chdf5_file_int64(void) { return H5T_STD_I64LE; }
hid_t chdf5_file_uint8(void) { return H5T_STD_U8LE; }

int chdf5_start(void) {
  // Files are closed by their owner; at exit the library would only complain of handles into damaged ones.
  if (H5dont_atexit() < 0) return -1;
  if (H5open() < 0) return -1;
  return H5PLset_loading_state(0) < 0 ? -1 : 0;
}

void chdf5_quiet(void) { H5Eset_auto2(H5E_DEFAULT, NULL, NULL); }

struct message {
  const char *outer;
  const char *inner;
};

static herr_t collect(unsigned n, const H5E_error2_t *error, void *context) {
  struct message *message = context;
  if (n == 0) message->outer = error->desc;
  message->inner = error->desc;
  return 0;
}

void chdf5_message(char *buffer, size_t size) {
  struct message message = {NULL, NULL};
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, collect, &message);
  if (message.outer == NULL)
    snprintf(buffer, size, "no reason given");
  else if (message.outer == message.inner || message.inner == NULL)
    snprintf(buffer, size, "%s", message.outer);
  else
    snprintf(buffer, size, "%s: %s", message.outer, message.inner);
}

hid_t chdf5_file_access(int for_writing) {
  hid_t list = H5Pcreate(H5P_FILE_ACCESS);
  if (list < 0) return list;
  // Strong: closing the file closes whatever is open in it. Metadata of version 1.8 carries checksums.
  if (H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) < 0 ||
      (for_writing && H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0)) {
    H5Pclose(list);
    return -1;
  }
#if H5_VERSION_GE(1, 10, 7)
  // Network file systems without locks must not make a checkpoint unreadable: files are immutable anyway.
  if (H5Pset_file_locking(list, 0, 1) < 0) {
    H5Pclose(list);
    return -1;
  }
#endif
  return list;
}

hid_t chdf5_create_file(const char *path, hid_t access) {
  hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  if (creation < 0) return creation;
  hid_t file = -1;
  if (H5Pset_obj_track_times(creation, 0) >= 0) file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
  H5Pclose(creation);
  return file;
}

hid_t chdf5_open_file(const char *path, hid_t access) { return H5Fopen(path, H5F_ACC_RDONLY, access); }

hid_t chdf5_create_group(hid_t parent, const char *name) {
  hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
  if (creation < 0) return creation;
  hid_t group = -1;
  if (H5Pset_obj_track_times(creation, 0) >= 0)
    group = H5Gcreate2(parent, name, H5P_DEFAULT, creation, H5P_DEFAULT);
  H5Pclose(creation);
  return group;
}

hid_t chdf5_create_dataset(hid_t parent, const char *name, hid_t type, hid_t space) {
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (creation < 0) return creation;
  hid_t dataset = -1;
  if (H5Pset_obj_track_times(creation, 0) >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
      H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
      H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0)
    dataset = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  H5Pclose(creation);
  return dataset;
}

hid_t chdf5_create_attribute(hid_t object, const char *name, hid_t type, hid_t space) {
  return H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
}

hid_t chdf5_open_object(hid_t parent, const char *name) { return H5Oopen(parent, name, H5P_DEFAULT); }
hid_t chdf5_open_attribute(hid_t object, const char *name) { return H5Aopen(object, name, H5P_DEFAULT); }

hid_t chdf5_string_type(size_t size) {
  hid_t type = H5Tcopy(H5T_C_S1);
  if (type < 0) return type;
  // A size of 0 is not allowed: the empty string is one NUL.
  if (H5Tset_size(type, size == 0 ? 1 : size) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
      H5Tset_cset(type, H5T_CSET_UTF8) < 0) {
    H5Tclose(type);
    return -1;
  }
  return type;
}

int chdf5_link_kind(hid_t group, const char *name) {
  htri_t exists = H5Lexists(group, name, H5P_DEFAULT);
  if (exists < 0) return -1;
  if (exists == 0) return CHDF5_ABSENT;
#if H5_VERSION_GE(1, 12, 0)
  H5L_info2_t info;
  if (H5Lget_info2(group, name, &info, H5P_DEFAULT) < 0) return -1;
#else
  H5L_info_t info;
  if (H5Lget_info(group, name, &info, H5P_DEFAULT) < 0) return -1;
#endif
  switch (info.type) {
    case H5L_TYPE_HARD: return CHDF5_HARD;
    case H5L_TYPE_SOFT: return CHDF5_SOFT;
    case H5L_TYPE_EXTERNAL: return CHDF5_EXTERNAL;
    default: return CHDF5_OTHER_LINK;
  }
}

int chdf5_object_kind(hid_t object) {
  switch (H5Iget_type(object)) {
    case H5I_GROUP: return CHDF5_GROUP;
    case H5I_DATASET: return CHDF5_DATASET;
    default: return CHDF5_OTHER_OBJECT;
  }
}

int64_t chdf5_child_count(hid_t group) {
  H5G_info_t info;
  if (H5Gget_info(group, &info) < 0) return -1;
  return info.nlinks > INT64_MAX ? -1 : (int64_t)info.nlinks;
}

int64_t chdf5_child_name(hid_t group, uint64_t index, char *buffer, size_t size) {
  return H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, index, buffer, size, H5P_DEFAULT);
}

int chdf5_layout(hid_t dataset) {
  hid_t list = H5Dget_create_plist(dataset);
  if (list < 0) return -1;
  H5D_layout_t layout = H5Pget_layout(list);
  H5Pclose(list);
  switch (layout) {
    case H5D_CONTIGUOUS: return CHDF5_CONTIGUOUS;
    case H5D_COMPACT: return CHDF5_COMPACT;
    case H5D_CHUNKED: return CHDF5_CHUNKED;
    case H5D_VIRTUAL: return CHDF5_VIRTUAL;
    default: return -1;
  }
}

int chdf5_external_count(hid_t dataset) {
  hid_t list = H5Dget_create_plist(dataset);
  if (list < 0) return -1;
  int count = H5Pget_external_count(list);
  H5Pclose(list);
  return count;
}

uint64_t chdf5_file_offset(hid_t dataset) {
  haddr_t offset = H5Dget_offset(dataset);
  return offset == HADDR_UNDEF ? UINT64_MAX : (uint64_t)offset;
}

int chdf5_element_type(hid_t dataset) {
  hid_t type = H5Dget_type(dataset);
  if (type < 0) return -1;
  int result = CHDF5_OTHER_TYPE;
  H5T_class_t class = H5Tget_class(type);
  if (H5Tequal(type, H5T_IEEE_F32LE) > 0)
    result = CHDF5_FLOAT32;
  else if (H5Tequal(type, H5T_IEEE_F64LE) > 0)
    result = CHDF5_FLOAT64;
  else if (H5Tequal(type, H5T_STD_I32LE) > 0)
    result = CHDF5_INT32;
  else if (H5Tequal(type, H5T_STD_I64LE) > 0)
    result = CHDF5_INT64;
  else if (H5Tequal(type, H5T_STD_U8LE) > 0)
    result = CHDF5_UINT8;
  else if (class == H5T_INTEGER || class == H5T_FLOAT)
    result = CHDF5_OTHER_NUMBER;
  H5Tclose(type);
  return result;
}

int chdf5_read_all(hid_t dataset, hid_t memory_type, void *bytes) {
  return H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes);
}

int chdf5_write_all(hid_t dataset, hid_t memory_type, const void *bytes) {
  return H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes);
}

int64_t chdf5_read_string(hid_t attribute, char *buffer, size_t size) {
  hid_t type = H5Aget_type(attribute);
  if (type < 0) return -1;
  int64_t result = -1;
  if (H5Tget_class(type) != H5T_STRING) {
    result = -2;
  } else if (H5Tis_variable_str(type) > 0) {
    char *text = NULL;
    if (H5Aread(attribute, type, &text) >= 0) {
      size_t length = text == NULL ? 0 : strlen(text);
      if (length + 1 > size) {
        result = -3;
      } else {
        if (length > 0) memcpy(buffer, text, length);
        buffer[length] = 0;
        result = (int64_t)length;
      }
      if (text != NULL) H5free_memory(text);
    }
  } else {
    size_t length = H5Tget_size(type);
    if (length + 1 > size) {
      result = -3;
    } else if (H5Aread(attribute, type, buffer) >= 0) {
      buffer[length] = 0;
      result = (int64_t)strlen(buffer);
    }
  }
  H5Tclose(type);
  return result;
}

int64_t chdf5_attribute_elements(hid_t attribute) {
  hid_t space = H5Aget_space(attribute);
  if (space < 0) return -1;
  int64_t count = H5Sget_simple_extent_npoints(space);
  H5Sclose(space);
  return count;
}

int chdf5_attribute_exists(hid_t object, const char *name) { return H5Aexists(object, name); }
