package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// family begins a metric.
func family(name string, kind api.MetricType, help string) *api.MetricFamily {
	return &api.MetricFamily{Name: "deploy_" + name, Help: help, Type: kind}
}

// add adds a sample; labels are names and values in turn.
func add(f *api.MetricFamily, value float64, labels ...string) {
	s := api.MetricSample{Value: value}
	for i := 0; i+1 < len(labels); i += 2 {
		s.Labels = append(s.Labels, api.MetricLabel{Name: labels[i], Value: labels[i+1]})
	}
	f.Samples = append(f.Samples, s)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// Metrics tells the figures of the VM, the bus and all processes.
func (a *Agent) Metrics(ctx context.Context) (api.Metrics, error) {
	inventory, err := a.Inventory(ctx)
	if err != nil {
		return api.Metrics{}, err
	}
	return metricsOf(inventory, *inventory.Vitals), nil
}

func metricsOf(in api.Inventory, v api.Vitals) api.Metrics {
	var all []*api.MetricFamily
	one := func(name string, kind api.MetricType, value float64, help string, labels ...string) {
		f := family(name, kind, help)
		add(f, value, labels...)
		all = append(all, f)
	}
	one("agent_info", api.MetricGauge, 1, "The agent and whose it is.",
		"deployment_id", in.DeploymentID, api.InstanceLabel, in.Instance, "version", in.Agent.Version, "generation", in.Active)
	one("agent_start_time_seconds", api.MetricGauge, seconds(in.Agent.StartedAt), "When the agent was started, since the epoch.")
	one("agent_time_seconds", api.MetricGauge, seconds(in.Now), "The time by the VM's clock, since the epoch.")

	states := family("instance_state", api.MetricGauge, "1 for the state in which the instance is, by the one health rule.")
	for _, s := range []api.InstanceState{api.InstanceRunning, api.InstanceStarting, api.InstanceFailing, api.InstanceStopped} {
		add(states, truth(in.State == s), "state", string(s))
	}
	all = append(all, states)
	one("instance_update_interrupted", api.MetricGauge, truth(in.Interrupted), "1 while an update has begun and has not ended well.")
	one("instance_drift_paths", api.MetricGauge, float64(len(in.Drift)), "How many installed paths were changed by hand.")

	up := family("process_up", api.MetricGauge, "1 if the process runs.")
	state := family("process_state", api.MetricGauge, "1 for the state in which the process is.")
	restarts := family("process_restarts_total", api.MetricCounter, "Unexpected ends since the process was told to start.")
	started := family("process_start_time_seconds", api.MetricGauge, "When the process was started, since the epoch.")
	memory := family("process_resident_memory_bytes", api.MetricGauge, "Resident memory of the process and its children.")
	cpu := family("process_cpu_seconds_total", api.MetricCounter, "CPU time of the process and its children.")
	for _, p := range in.Processes {
		labels := []string{api.JobLabel, p.Job, "process", p.Name}
		add(up, truth(p.PID != 0), labels...)
		for _, s := range []api.ProcessState{api.ProcessStarting, api.ProcessRunning, api.ProcessFailing, api.ProcessBackoff, api.ProcessStopping, api.ProcessStopped} {
			add(state, truth(p.State == s), append(labels, "state", string(s))...)
		}
		add(restarts, float64(p.Restarts), labels...)
		if p.PID == 0 {
			continue
		}
		if p.StartedAt != nil {
			add(started, seconds(*p.StartedAt), labels...)
		}
		add(memory, float64(p.RSSBytes), labels...)
		add(cpu, p.CPUSeconds, labels...)
	}
	all = append(all, up, state, restarts, started, memory, cpu)

	one("vm_load1", api.MetricGauge, v.Load1, "The VM's load average over one minute.")
	one("vm_memory_bytes", api.MetricGauge, float64(v.MemoryBytes), "The VM's memory.")
	one("vm_memory_used_bytes", api.MetricGauge, float64(v.MemoryUsedBytes), "The VM's memory that is not available.")
	one("vm_disk_bytes", api.MetricGauge, float64(v.DiskBytes), "Size of the file system that holds the agent's folder.")
	one("vm_disk_used_bytes", api.MetricGauge, float64(v.DiskUsedBytes), "What of it is used.")

	one("bus_connected", api.MetricGauge, truth(in.Bus.Connected), "1 if the agent is connected to the bus.")
	if in.Bus.CertificateEnds != nil {
		one("bus_certificate_end_time_seconds", api.MetricGauge, seconds(*in.Bus.CertificateEnds), "When the agent's certificate ends, since the epoch.")
	}
	m := api.Metrics{}
	for _, f := range all {
		if len(f.Samples) > 0 {
			m.Families = append(m.Families, *f)
		}
	}
	return m
}

// listenRetry is the time that an address that cannot be listened on is left alone.
const listenRetry = time.Second

// metricsServer serves /metrics to whoever asks at an address.
type metricsServer struct {
	address string
	cancel  context.CancelFunc
	done    chan struct{}
}

// serveMetrics listens in the background, and again as long as the address
// cannot be had: at the boot of a VM it may come late.
func (a *Agent) serveMetrics(address string, listener net.Listener) *metricsServer {
	ctx, cancel := context.WithCancel(a.ctx)
	s := &metricsServer{address: address, cancel: cancel, done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		m, err := a.Metrics(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", api.MetricsContentType)
		if err := m.WriteText(w); err != nil {
			a.config.Log.Debug("metrics were refused", "err", err)
		}
	})
	go func() {
		defer close(s.done)
		for listener == nil {
			var err error
			if listener, err = net.Listen("tcp", address); err == nil {
				break
			}
			a.config.Log.Warn("cannot serve metrics; trying again", "address", address, "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(listenRetry):
			}
		}
		server := &http.Server{
			Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
			ErrorLog: slog.NewLogLogger(a.config.Log.Handler(), slog.LevelWarn),
		}
		closed := context.AfterFunc(ctx, func() { server.Close() })
		defer closed()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.config.Log.Error("stopped serving metrics", "address", address, "err", err)
		}
	}()
	return s
}

// close ends the listener and waits for it. s may be nil.
func (s *metricsServer) close() {
	if s != nil {
		s.cancel()
		<-s.done
	}
}

// configureMetrics serves metrics where the identity says, and nowhere else.
func (a *Agent) configureMetrics() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	address := metricsAddress(a.identity)
	if a.metrics != nil && a.metrics.address == address {
		return nil
	}
	var listener net.Listener
	if address != "" {
		var err error
		if listener, err = net.Listen("tcp", address); err != nil {
			return fmt.Errorf("cannot serve metrics: %w; choose another port in the deployment's metrics block", err)
		}
	}
	a.metrics.close()
	a.metrics = nil
	if address != "" {
		a.metrics = a.serveMetrics(address, listener)
	}
	return nil
}

// metricsAddress returns where metrics are served, "" for nowhere.
func metricsAddress(id identity) string {
	if id.MetricsPort == 0 || id.Address == "" {
		return ""
	}
	return net.JoinHostPort(id.Address, strconv.Itoa(id.MetricsPort))
}
