package dea

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// probeConnect bounds one attempt to connect to an app that starts, as in the
// original, and probeAnswer one request: an app's first answer may take its time.
const (
	probeConnect = 250 * time.Millisecond
	probeAnswer  = 5 * time.Second
)

// hintAfter is the time that an app that starts may listen nowhere, or elsewhere, before
// its owner is told.
const hintAfter = 2 * time.Second

// readiness says when an instance counts as running.
type readiness struct {
	kind     string // one of wire.CheckTypes, or stateFile
	endpoint string // a path, or a file below the instance's folder
	timeout  time.Duration
	lacking  string // what has not happened until then, for its owner
}

// stateFile is the way of droplets that name a state file.
const stateFile = "state file"

// readinessOf decides how an instance's readiness is found out: as its start
// document says, else by the state file that its droplet names, else by its port.
// What has no port needs a process only.
func readinessOf(i core.Instance, droplet string, times Intervals) readiness {
	var asked wire.HealthCheck
	if i.Start.Health != nil {
		asked = *i.Start.Health
	}
	r := readiness{kind: asked.Type, endpoint: asked.Endpoint, timeout: times.PortTimeout.Duration()}
	switch r.kind {
	case wire.CheckHTTP, wire.CheckPort, wire.CheckProcess, wire.CheckFile:
	default:
		r.kind = wire.CheckPort
		if droplet != "" {
			r.kind, r.endpoint = stateFile, droplet
		}
	}
	if i.Port == 0 && (r.kind == wire.CheckPort || r.kind == wire.CheckHTTP) {
		r.kind = wire.CheckProcess
	}
	port := fmt.Sprintf("port %d, which the variable PORT names", i.Port)
	switch r.kind {
	case wire.CheckPort:
		r.lacking = "it did not listen on " + port
	case wire.CheckHTTP:
		r.endpoint = path.Join("/", r.endpoint)
		r.lacking = fmt.Sprintf("it did not answer GET %s on %s", r.endpoint, port)
	case wire.CheckFile:
		r.lacking = fmt.Sprintf("its file %s did not appear", r.endpoint)
		r.endpoint = path.Join("app", path.Join("/", r.endpoint))
	case stateFile:
		r.timeout = times.StateFileTimeout.Duration()
		r.lacking = fmt.Sprintf("its state file %s did not say RUNNING", r.endpoint)
		if i.Start.Debug != nil && *i.Start.Debug == "suspend" {
			r.timeout = 0 // it waits for a debugger, for as long as that takes
			return r
		}
	}
	if asked.Timeout > 0 {
		r.timeout = time.Duration(asked.Timeout) * time.Second
	}
	return r
}

// probePause returns the time until an app is probed again that has been starting for a
// time: an eighth of that, so that the last pause costs little. most bounds it.
func probePause(since, most time.Duration) time.Duration {
	return min(most, max(20*time.Millisecond, since/8))
}

// probe waits until the app is ready. Meanwhile it tells the app's owner, once for
// each finding, where the app listens instead.
func (a *attendant) probe(ctx context.Context) error {
	d, i := a.dea, a.instance
	root, err := os.OpenRoot(d.instanceFolder(i.Folder))
	if err != nil {
		return fmt.Errorf("cannot see whether the app is ready: %w", err)
	}
	defer root.Close()
	droplet, err := stateFileOf(root)
	if err != nil {
		return err
	}
	r := readinessOf(i, droplet, d.config.Intervals)
	check := a.checkOf(r, root)
	var late <-chan time.Time
	if r.timeout > 0 {
		timer := time.NewTimer(r.timeout)
		defer timer.Stop()
		late = timer.C
	}
	begin, hintAt, said := time.Now(), hintAfter, ""
	interval := d.config.Intervals.Probe.Duration()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if took := time.Since(begin); took > hintAt {
			// Later each time: the look goes over all processes of the machine.
			hintAt = 2 * took
			hint := a.elsewhere(ctx)
			if hint == "" && r.kind == wire.CheckHTTP {
				hint = fmt.Sprintf("The app is not ready yet: GET %s: %v.", r.endpoint, err)
			}
			if hint != "" && hint != said {
				said = hint
				d.note(i.ID, hint)
			}
		}
		pause := time.NewTimer(probePause(time.Since(begin), interval))
		select {
		case <-pause.C:
		case <-late:
			pause.Stop()
			comma := ""
			if strings.Contains(r.lacking, ",") {
				comma = ","
			}
			text := fmt.Sprintf("The app did not start: %s%s within %v", r.lacking, comma, r.timeout)
			if r.kind == wire.CheckHTTP {
				text += fmt.Sprintf(" (%v)", err)
			}
			if hint := a.elsewhere(ctx); hint != "" {
				text += ". " + strings.TrimSuffix(hint, ".")
			}
			//lint:ignore ST1005 a line of the app's log
			return errors.New(text + ".")
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

var errNotReady = errors.New("not ready")

// checkOf returns what is done to see whether the app is ready; its error says why
// it is not.
func (a *attendant) checkOf(r readiness, root *os.Root) func(context.Context) error {
	d := a.dea
	address := net.JoinHostPort(d.base.Address(), strconv.Itoa(a.instance.Port))
	switch r.kind {
	case stateFile:
		return func(context.Context) error {
			if stateIsRunning(root, r.endpoint) {
				return nil
			}
			return errNotReady
		}
	case wire.CheckFile:
		return func(context.Context) error {
			_, err := root.Lstat(strings.TrimPrefix(r.endpoint, "/"))
			return err
		}
	case wire.CheckPort:
		return func(ctx context.Context) error {
			dial, cancel := context.WithTimeout(ctx, probeConnect)
			defer cancel()
			conn, err := d.base.Dialer().DialContext(dial, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		}
	case wire.CheckHTTP:
		return func(ctx context.Context) error { return d.probeHTTP(ctx, address, r.endpoint) }
	}
	return func(context.Context) error { return nil }
}

// probeHTTP asks an app once. Every answer from 200 to 399 is a good one.
func (d *DEA) probeHTTP(ctx context.Context, address, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, probeAnswer)
	defer cancel()
	client := &http.Client{
		Transport:     &http.Transport{DialContext: d.base.Dialer().DialContext, DisableKeepAlives: true, MaxResponseHeaderBytes: maxState},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+endpoint, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "deploy-health-check")
	response, err := client.Do(request)
	if err != nil {
		return errors.Unwrap(err)
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("the last answer was %s", response.Status)
	}
	return nil
}

// elsewhere says on which addresses an app listens, if it has a port and that is
// not among them; "" if it listens nowhere, or by now as it should.
func (a *attendant) elsewhere(ctx context.Context) string {
	pid, port := a.pid(), a.instance.Port
	if pid == 0 || port == 0 {
		return ""
	}
	snapshot, err := warden.Look()
	if err != nil {
		return ""
	}
	open, err := proc.Listeners(snapshot.Processes(pid))
	if err != nil {
		return ""
	}
	own, err := netip.ParseAddr(a.dea.base.Address())
	if err != nil {
		return ""
	}
	hint := strayed(open, own, port)
	// An open port of IPv6 may serve IPv4 as well, or it has been opened just now.
	if hint != "" && a.checkOf(readiness{kind: wire.CheckPort}, nil)(ctx) == nil {
		return ""
	}
	return hint
}

// strayed says what is wrong with where an app listens; "" if it listens nowhere,
// or where it should.
func strayed(open []netip.AddrPort, own netip.Addr, port int) string {
	var others []string
	loopback, six := "", false
	for _, at := range open {
		reached := at.Addr().IsUnspecified() || at.Addr() == own
		switch {
		case int(at.Port()) == port && at.Addr() == netip.IPv6Unspecified() && own.Is4():
			six = true // and IPv4 as well, unless the app has said otherwise

		case int(at.Port()) == port && reached:
			return ""
		case int(at.Port()) == port:
			loopback = at.Addr().String()
		default:
			others = append(others, at.String())
		}
	}
	switch {
	case six:
		return fmt.Sprintf("The app listens on port %d for IPv6 only, and nobody reaches it by IPv4: it should listen on 0.0.0.0, or on :: without its option for IPv6 only.", port)
	case loopback != "":
		return fmt.Sprintf("The app listens on %s only, port %d, where nobody else reaches it: it should listen on all addresses (0.0.0.0), or on that of the variable VCAP_APP_HOST.", loopback, port)
	case len(others) > 0:
		return fmt.Sprintf("The app listens on %s, not on port %d: it should take the port from the variable PORT.", strings.Join(others, ", "), port)
	}
	return ""
}

// maxState is the size that no droplet.yaml and no state file has.
const maxState = 64 << 10

// stateFileOf returns what droplet.yaml names, "" if nothing.
func stateFileOf(root *os.Root) (string, error) {
	data, err := readSmall(root, "droplet.yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var file string
	if err == nil {
		file, err = parseDroplet(data)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the droplet's droplet.yaml: %w", err)
	}
	return file, nil
}

// parseDroplet reads what an app may have written over.
func parseDroplet(data []byte) (stateFile string, err error) {
	var doc struct {
		StateFile string `yaml:"state_file"`
	}
	err = component.ParseYAML(data, &doc)
	return doc.StateFile, err
}

func stateIsRunning(root *os.Root, name string) bool {
	data, err := readSmall(root, name)
	if err != nil {
		return false
	}
	var doc struct {
		State string `json:"state"`
	}
	return json.Unmarshal(data, &doc) == nil && doc.State == wire.StateRunning
}

// readSmall reads a file that an app may have put there.
func readSmall(root *os.Root, name string) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err == nil && len(data) > maxState {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxState)
	}
	return data, err
}
