package agent_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// metricLine is a line of the text format: comment, or name, labels and value.
var metricLine = regexp.MustCompile(`^(# (HELP|TYPE) [a-z0-9_]+ .+|[a-z0-9_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [-+0-9.e]+)$`)

// text is the metrics as Prometheus reads them.
func (f *fixture) text(m api.Metrics) string {
	f.Helper()
	var out strings.Builder
	f.must(m.WriteText(&out))
	for line := range strings.Lines(out.String()) {
		if !metricLine.MatchString(strings.TrimSuffix(line, "\n")) {
			f.Errorf("Prometheus does not read %q", line)
		}
	}
	return out.String()
}

func TestMetricsTellHowItIs(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
		tell := func(wants ...string) (text string, missing []string) {
			m, err := f.c.Metrics(f.context())
			f.must(err)
			text = f.text(m)
			for _, want := range wants {
				if !strings.Contains(text, want+"\n") && !strings.Contains(text, want+" ") {
					missing = append(missing, want)
				}
			}
			return text, missing
		}
		connected := 0
		if f.bus != nil {
			connected = 1
		}
		text, missing := tell(
			`deploy_agent_info{deployment_id="dep-1",deploy_instance="web/0",version="0.0.0-test",generation="g1"} 1`,
			`deploy_instance_state{state="running"} 1`, `deploy_instance_state{state="failing"} 0`,
			`deploy_process_up{deploy_job="app",process="main"} 1`, `deploy_process_state{deploy_job="app",process="main",state="running"} 1`,
			`deploy_process_restarts_total{deploy_job="app",process="main"} 0`, `deploy_process_resident_memory_bytes{deploy_job="app",process="main"}`,
			`deploy_process_cpu_seconds_total{deploy_job="app",process="main"}`, `deploy_vm_load1`, `deploy_vm_memory_used_bytes`, `deploy_vm_disk_bytes`,
			fmt.Sprintf(`deploy_bus_connected %d`, connected), `deploy_instance_drift_paths 0`)
		if len(missing) > 0 {
			f.Errorf("missing %q in\n%s", missing, text)
		}
		if has := strings.Contains(text, "\ndeploy_bus_certificate_end_time_seconds "); has != (f.bus != nil) {
			f.Errorf("the certificate's end is told: %t", has)
		}
		f.must(syscall.Kill(f.pids()["app/main"], syscall.SIGKILL))
		f.until("the restart is counted", func() bool {
			_, missing := tell(`deploy_process_restarts_total{deploy_job="app",process="main"} 1`, `deploy_process_up{deploy_job="app",process="main"} 1`)
			return len(missing) == 0
		})
	})
}

func TestMetricsListener(t *testing.T) {
	t.Parallel()
	f := startOnBus(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.must(err)
	port := l.Addr().(*net.TCPAddr).Port
	get := func() (string, error) {
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		if got := response.Header.Get("Content-Type"); got != api.MetricsContentType {
			f.Errorf("content type %q", got)
		}
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	settings := api.Configure{Deployment: "cf", VMID: "vm-1", Address: "127.0.0.1", Bus: f.busSettings(), MetricsPort: port}
	if err := f.do(settings); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("a port in use: %v", err)
	}
	f.must(l.Close())
	f.must(f.do(settings))
	if text, err := get(); err != nil || !strings.Contains(text, "deploy_bus_connected 1\n") {
		t.Errorf("got %v, %s", err, text)
	}
	if in := f.inventory(); in.MetricsPort != port || !in.Bus.Connected {
		t.Errorf("got port %d, bus %+v", in.MetricsPort, in.Bus)
	}

	f.agent.Kill()
	f.agent.Run()
	f.until("they are served by the next agent", func() bool { _, err := get(); return err == nil })

	settings.MetricsPort = 0
	f.must(f.do(settings))
	if _, err := get(); err == nil {
		t.Error("they are served although nobody wants them")
	}
}
