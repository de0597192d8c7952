package router

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// manyRoutes is the number of routes of a large platform.
const manyRoutes = 100_000

// BenchmarkRoutes compares a router that has manyRoutes with one that has one, in
// turns: throughput and CPU time. It reports how long the routes take to be
// absorbed, to be registered again, and what memory they take; and the time from
// the registration of a route to the answer of its first request.
func BenchmarkRoutes(b *testing.B) {
	dir := b.TempDir()
	backend := startNginx(b, dir, "backend", "return 200 '"+strings.Repeat("x", 1024)+"';", "")
	one, many := busOf(b), busOf(b)
	few := startRouterOn(b, dir, "one", one.ConnectedUrl())
	full := startRouterOn(b, dir, "many", many.ConnectedUrl())
	registerPeer(b, one, few, backend)
	registerPeer(b, many, full, backend)
	to, err := net.ResolveTCPAddr("tcp", backend)
	if err != nil {
		b.Fatal(err)
	}
	messages := make([][]byte, manyRoutes)
	for i := range messages {
		// As a DEA says it: an address, an app and a session of its own each.
		r := wire.Registration{
			DEA: "dea-" + fmt.Sprint(i/100), App: wire.ID(fmt.Sprintf("%032x", i)), Host: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 61001,
			URIs: []string{fmt.Sprintf("app-%d.apps.example.com", i)}, Tags: wire.Tags{"component": "dea-" + fmt.Sprint(i/100)},
			PrivateInstanceID: fmt.Sprintf("%032x", 1<<40+i),
		}
		if messages[i], err = json.Marshal(r); err != nil {
			b.Fatal(err)
		}
	}
	absorb := func(mark string) (took, cpu time.Duration) {
		before, begin := cpuOf(b, full.pid), time.Now()
		for i, message := range messages {
			if err := many.Publish(wire.SubjectRouterRegister, message); err != nil {
				b.Fatal(err)
			}
			if i%1000 == 0 { // as fast as they are taken from us, and no faster than a bus allows
				if err := many.FlushTimeout(deadline); err != nil {
					b.Fatal(err)
				}
			}
		}
		// They are taken in order: with the last one all are there.
		publish(b, many, wire.SubjectRouterRegister, registration(to, mark))
		for askOver(full.addr, mark, 1) != nil {
			if time.Since(begin) > deadline {
				b.Fatal("the routes are not absorbed")
			}
		}
		return time.Since(begin), cpuOf(b, full.pid) - before
	}
	for range b.N {
		took, cpu := absorb("absorbed.example.com")
		b.ReportMetric(took.Seconds(), "absorb-s")
		b.ReportMetric(cpu.Seconds(), "absorb-cpu-s")
		b.ReportMetric(resident(b, full), "MB-absorbed")
		took, cpu = absorb("refreshed.example.com")
		b.ReportMetric(took.Seconds(), "refresh-s")
		b.ReportMetric(cpu.Seconds(), "refresh-cpu-s")
		for range peerRounds {
			for _, p := range []*peer{few, full} {
				before, begin := cpuOf(b, p.pid), time.Now()
				ask(b, p, peerRequests)
				p.took += time.Since(begin)
				p.cpu += cpuOf(b, p.pid) - before
			}
		}
		b.ReportMetric(resident(b, full), "MB-under-load")
		b.ReportMetric(resident(b, few), "MB-one-route")
		times := make([]time.Duration, 300)
		for i := range times {
			host := fmt.Sprintf("new-%d.example.com", i)
			begin := time.Now()
			publish(b, many, wire.SubjectRouterRegister, registration(to, host))
			if err := many.FlushTimeout(deadline); err != nil {
				b.Fatal(err)
			}
			for askOver(full.addr, host, 1) != nil {
				if time.Since(begin) > deadline {
					b.Fatal("a new route is not routed")
				}
			}
			times[i] = time.Since(begin)
		}
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "first-request-p50-ms")
		b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "first-request-p99-ms")
	}
	b.ReportMetric(float64(few.took)/float64(full.took), "rate/one-route")
	b.ReportMetric(float64(full.cpu)/float64(few.cpu), "cpu/one-route")
}

// busOf returns a connection to a bus of its own.
func busOf(b *testing.B) *nats.Conn {
	b.Helper()
	conn, err := nats.Connect(componenttest.Bus(b).ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	return conn
}

// resident returns the memory of a process in MB.
func resident(b *testing.B, p *peer) float64 {
	b.Helper()
	proc, err := procfs.NewProc(p.pid)
	if err != nil {
		b.Fatal(err)
	}
	stat, err := proc.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return float64(stat.ResidentMemory()) / 1e6
}
