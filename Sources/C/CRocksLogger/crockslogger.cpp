#include "crockslogger.h"
#include <cstdarg>
#include <memory>
#include <rocksdb/env.h>

// What the C interface means by a logger (db/c.cc); it has no function that makes one.
struct rocksdb_logger_t {
    std::shared_ptr<rocksdb::Logger> rep;
};

namespace {
class DiscardingLogger final : public rocksdb::Logger {
  public:
    DiscardingLogger() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
    using rocksdb::Logger::Logv;
    void LogHeader(const char *, va_list) override {}
    void Logv(const char *, va_list) override {}
    void Logv(const rocksdb::InfoLogLevel, const char *, va_list) override {}
};
}

extern "C" void crockslogger_discard(rocksdb_options_t *options) {
    rocksdb_logger_t logger{std::make_shared<DiscardingLogger>()};
    rocksdb_options_set_info_log(options, &logger);
}
