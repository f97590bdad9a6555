#ifndef CROCKSLOGGER_H
#define CROCKSLOGGER_H

#include <rocksdb/c.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Makes a database write no LOG file. RocksDB's own logger aborts the process in builds with assertions (Debian's 7.8
/// is one) when a line follows one that the disk had no room for.
void crockslogger_discard(rocksdb_options_t *options);

#ifdef __cplusplus
}
#endif

#endif
