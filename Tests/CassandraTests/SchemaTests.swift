import CassandraCQL
import Foundation
import MarketModel
import TestSupport
import Testing
import TickStore

@testable import CassandraStore

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(4)))
struct SchemaTests {
    private func configuration(_ port: Int, _ keyspace: String) -> CassandraStoreConfiguration {
        var configuration = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
        configuration.keyspace = keyspace
        return configuration
    }

    private func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
        }
    }

    @Test func `Apply makes the tables once, and check finds every drift`() async throws {
        let port = try await SharedCassandra.shared.node().port
        let configuration = configuration(port, "schema_drift")
        try await onThread {
            let tool = try SchemaTool(configuration, replication: ["datacenter1": 1])
            let first = try tool.plan()
            #expect(first.statements.count == CassandraSchema.tables(release: "5.0").count + 3 && !first.isUpToDate)
            #expect(try tool.apply().statements == first.statements)
            let again = try tool.plan()
            #expect(again.isUpToDate && again.findings.isEmpty, "\(again)")
            #expect(try tool.apply().statements.isEmpty)
            let session = try BlockingSession(configuration)
            defer { session.close() }
            for statement in [
                "ALTER TABLE schema_drift.tick_data WITH bloom_filter_fp_chance = 0.1 AND default_time_to_live = 60",
                "ALTER TABLE schema_drift.tick_data WITH compaction = {'class': 'SizeTieredCompactionStrategy'}",
                "ALTER TABLE schema_drift.instruments WITH compaction = {'class': 'SizeTieredCompactionStrategy'}",
                "ALTER TABLE schema_drift.tick_data DROP volume",
                "ALTER TABLE schema_drift.tick_data ADD mine text",
                "DROP TABLE schema_drift.limits",
                "ALTER KEYSPACE schema_drift WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            ] { _ = try session.query(statement) }
            let drift = try tool.plan()
            func has(_ kind: SchemaTool.Finding.Kind, _ place: String, _ words: String) -> Bool {
                drift.findings.contains { $0.kind == kind && $0.place == place && $0.message.contains(words) }
            }
            #expect(has(.different, "tick_data", "bloom_filter_fp_chance is 0.1, not 0.01"))
            #expect(has(.different, "tick_data", "default_time_to_live is 60, not 7776000"))
            #expect(has(.different, "tick_data", "compaction is {'class': 'SizeTieredCompactionStrategy'"))
            #expect(has(.warning, "instruments", "bloom_filter_fp_chance stays at"))
            #expect(has(.missing, "tick_data.volume", "not there"))
            #expect(has(.extra, "tick_data.mine", "not ours"))
            #expect(has(.missing, "limits", "not there"))
            #expect(has(.different, "schema_drift", "replication is {'class': 'SimpleStrategy'"))
            #expect(!drift.isUpToDate)
            _ = try tool.apply()
            let mended = try tool.plan()
            #expect(mended.isUpToDate && mended.findings.map(\.kind) == [.extra], "\(mended)")
        }
    }

    @Test func `Unknown data centres, other keys and newer schemas are refused before anything is changed`()
        async throws
    {
        let port = try await SharedCassandra.shared.node().port
        let elsewhere = configuration(port, "schema_elsewhere")
        let other = configuration(port, "schema_other")
        try await onThread {
            let tool = try SchemaTool(elsewhere, replication: ["dc-london": 3, "datacenter1": 1])
            let error = #expect(throws: StoreError.self) { try tool.apply() }
            #expect(error?.message == "there is no data centre dc-london in the cluster; there are: datacenter1")
            let first = try SchemaTool(elsewhere, replication: nil).plan().statements.first
            #expect(
                first?.contains("{'class': 'NetworkTopologyStrategy', 'datacenter1': '1'}") == true, "\(first ?? "")")
            let session = try BlockingSession(other)
            defer { session.close() }
            #expect(
                try session.query(
                    "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = 'schema_elsewhere'"
                ).isEmpty)
            _ = try session.query(
                "CREATE KEYSPACE IF NOT EXISTS schema_other WITH replication = "
                    + "{'class': 'SimpleStrategy', 'replication_factor': 1}")
            // The published table, as it stands: without a bucket, and with an int for the volume.
            _ = try session.query(
                "CREATE TABLE schema_other.tick_data (exchange text, symbol text, trade_date text, tick_time timeuuid, "
                    + "volume int, PRIMARY KEY ((exchange, symbol, trade_date), tick_time))")
            let conflicting = try SchemaTool(other, replication: nil)
            let plan = try conflicting.plan()
            let places = plan.findings.filter { $0.kind == .conflict }.map(\.place)
            #expect(places == ["tick_data.bucket", "tick_data.tick_time", "tick_data.volume"])
            #expect(throws: StoreError.self) { try conflicting.apply() }
            #expect(
                try session.query("SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'schema_other'")
                    .count
                    == 1)
            _ = try session.query("DROP TABLE schema_other.tick_data")
            _ = try conflicting.apply()
            _ = try session.query(
                "INSERT INTO schema_other.schema_versions (scope, version) VALUES ('tapedeck', 99)")
            #expect(
                try conflicting.plan().findings.contains { $0.kind == .conflict && $0.message.contains("schema 99") })
            let opened = #expect(throws: StoreError.self) { try CassandraStore(other, time: FixedTime()) }
            #expect(opened?.code == .unknownFormat)
        }
        let odd = configuration(port, "Bad Name")
        try await onThread {
            // An object whose making fails at its end is ended twice; a session that waited for itself hung here.
            for _ in 0..<20 { _ = #expect(throws: StoreError.self) { _ = try SchemaTool(odd, replication: nil) } }
            let session = try BlockingSession(other)
            session.close()
            SystemClock().sleep(ns: 50_000_000)
            session.close()
        }
    }

    @Test func `A keyspace without tables says what to do`() async throws {
        let port = try await SharedCassandra.shared.node().port
        let configuration = configuration(port, "schema_none")
        try await onThread {
            let error = #expect(throws: StoreError.self) { try CassandraStore(configuration, time: FixedTime()) }
            #expect(
                error?.retryable == false && error?.message.contains("`tapedeck schema apply`") == true, "\(error!)")
        }
    }

    @Test func `Dates of partitions go back and forth`() {
        #expect(CivilTime.date(day: 0) == "1970-01-01" && CivilTime.date(day: 18_336) == "2020-03-15")
        #expect(CivilTime.date(day: -1) == "1969-12-31" && CivilTime.date(day: 19_782) == "2024-02-29")
        for day in Int64(-106_752)...106_751 { #expect(CivilTime.day(date: CivilTime.date(day: day)) == day) }
        for bad in [
            "", "2020", "2020-13-01", "2020-00-01", "2020-01-99", "x-y-z", "9999-01-01", "2023-02-29", "2024-2-01",
            "2024-02-1", "2024-02-01-", "+2024-02-01", "2024-02-01T",
        ] { #expect(CivilTime.day(date: bad) == nil) }
    }
}
