package component

import (
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/jobs/wire"
)

// statusHandler serves /healthz and /varz to whoever knows the credentials,
// which are announced on the bus.
func (c *Component) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// A JSON type for a plain text, as the original had it.
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /varz", func(w http.ResponseWriter, _ *http.Request) {
		body, err := json.MarshalIndent(c.varz(), "", "  ")
		if err != nil {
			http.Error(w, "cannot write varz: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		right := subtle.ConstantTimeCompare([]byte(user), []byte(c.credentials[0])) &
			subtle.ConstantTimeCompare([]byte(password), []byte(c.credentials[1]))
		if right != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="status"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// varz is the component's own document over the common one.
func (c *Component) varz() map[string]any {
	about := c.describe(true)
	doc := map[string]any{}
	if c.options.Varz != nil {
		for key, value := range c.options.Varz() {
			doc[key] = value
		}
	}
	doc["type"], doc["index"], doc["uuid"] = about.Type, about.Index, about.UUID
	doc["host"], doc["credentials"] = about.Host, about.Credentials
	doc["start"], doc["uptime"] = about.Start, about.Uptime
	doc["num_cores"] = runtime.NumCPU()
	doc["mem"] = residentKiB()
	doc["cpu"] = c.cpuPercent()
	c.mu.Lock()
	doc["config"] = redact(c.raw)
	c.mu.Unlock()
	return doc
}

// describe returns what the component says of itself on the bus.
func (c *Component) describe(withUptime bool) wire.Component {
	about := wire.Component{
		Type:        c.options.Type,
		Index:       c.options.Config.Index,
		UUID:        c.uuid,
		Host:        c.status.Addr().String(),
		Credentials: c.credentials,
		Start:       wire.FormatTime(c.started),
	}
	if withUptime {
		about.Uptime = wire.FormatUptime(time.Since(c.started))
	}
	return about
}

// cpuPercent is the processor time since the start over the time since then,
// as ps shows it.
func (c *Component) cpuPercent() float64 {
	var used syscall.Rusage
	elapsed := time.Since(c.started)
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil || elapsed <= 0 {
		return 0
	}
	return 100 * float64(used.Utime.Nano()+used.Stime.Nano()) / float64(elapsed)
}

// residentKiB is the memory that the process holds, 0 where it cannot be known.
func residentKiB() int {
	state, err := proc.Stat(os.Getpid())
	if err != nil {
		return 0
	}
	return state.ResidentMemory() / 1024
}
