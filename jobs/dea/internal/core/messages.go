package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Hello returns who this DEA is.
func (m *Machine) Hello() wire.DEAHello {
	return wire.DEAHello{ID: m.config.DEA, IP: m.config.IP, Port: m.config.FilePort, Version: wire.DEAVersion}
}

// Status is the answer to dea.status.
func (m *Machine) Status() wire.DEAStatus {
	s := wire.DEAStatus{
		DEAHello: m.Hello(), MaxMemory: m.config.MaxMemory, ReservedMemory: m.Reserved(),
		UsedMemory: m.used() / 1024, NumClients: m.clients(),
	}
	if m.draining {
		s.State = wire.StateShuttingDown
	}
	return s
}

// used is the memory that all instances use, KiB.
func (m *Machine) used() float64 {
	sum := 0.0
	for _, i := range m.instances {
		if i.live() && i.Usage != nil {
			sum += i.Usage.Mem
		}
	}
	return sum
}

// Advertisement returns what the DEA has room for; false while it takes nothing.
func (m *Machine) Advertisement() (wire.DEAAdvertise, bool) {
	a := wire.DEAAdvertise{
		ID: m.config.DEA, AvailableMemory: m.config.MaxMemory - m.Reserved(),
		Runtimes: m.config.Runtimes, Prod: m.config.Prod, Isolation: m.config.Isolation, Zone: m.config.Zone,
	}
	return a, m.Fits(wire.Limits{Mem: 1}, true) == nil
}

func (m *Machine) advertise() []Action {
	if a, ok := m.Advertisement(); ok {
		return []Action{Publish{Subject: wire.SubjectDEAAdvertise, Message: a}}
	}
	return nil
}

// Heartbeat is the state of all instances; false if there are none, or if
// others are asked to run them.
func (m *Machine) Heartbeat() (wire.DEAHeartbeat, bool) {
	var reported []*Instance
	for _, i := range m.sorted() {
		if i.live() || i.State == wire.StateCrashed {
			reported = append(reported, i)
		}
	}
	return m.heartbeat(reported...), len(reported) > 0 && !m.draining
}

func (m *Machine) heartbeat(instances ...*Instance) wire.DEAHeartbeat {
	h := wire.DEAHeartbeat{DEA: m.config.DEA, Prod: m.config.Prod}
	for _, i := range instances {
		h.Droplets = append(h.Droplets, wire.InstanceHeartbeat{
			Droplet: i.Start.Droplet, Version: i.Start.Version, Instance: i.ID, Index: i.Start.Index,
			State: i.State, StateTimestamp: i.Since, CCPartition: i.Start.CCPartition,
		})
	}
	return h
}

// Routes are the registrations of all that runs.
func (m *Machine) Routes() []wire.Registration {
	var routes []wire.Registration
	for _, i := range m.sorted() {
		route, ok := m.route(i, i.Start.URIs)
		switch {
		case i.Port == 0 || !i.live():
		case ok && i.State == wire.StateRunning:
			routes = append(routes, route)
		default:
			routes = append(routes, Claim(m.config.IP, i.Start.Droplet, i.Port))
		}
	}
	return routes
}

// Find answers a dea.find.droplet: one message for each instance that matches.
func (m *Machine) Find(now time.Time, filter wire.DEAFind) []wire.DEAFound {
	var found []wire.DEAFound
	for _, i := range m.sorted() {
		// A stopped instance is for those who ask for that state.
		gone := i.State == wire.StateStopped && (i.Unwanted || !slices.Contains(filter.States, wire.StateStopped))
		if gone || i.Start.Droplet != filter.Droplet ||
			!filter.Matches(i.Start.Version, i.ID, i.Start.Index, i.State) {
			continue
		}
		f := wire.DEAFound{
			DEA: m.config.DEA, Version: i.Start.Version, Droplet: i.Start.Droplet, Instance: i.ID, Index: i.Start.Index,
			State: i.State, StateTimestamp: i.Since,
			FileURI:     fmt.Sprintf("http://%s:%d/droplets/", m.config.IP, m.config.FilePort),
			Credentials: m.config.Credentials,
			MinHealthy:  i.Start.MinHealthy,
		}
		if m.config.SessionPort != 0 && i.State == wire.StateRunning {
			f.SessionURI = fmt.Sprintf("https://%s:%d/sessions/%s", m.config.IP, m.config.SessionPort, i.ID)
		}
		if i.Launched || i.State == wire.StateCrashed { // which is kept for its log only
			f.Staged = &i.Folder
		}
		if i.DebugPort != 0 {
			f.DebugIP, f.DebugPort = &m.config.IP, &i.DebugPort
		}
		if i.ConsolePort != 0 {
			f.ConsoleIP, f.ConsolePort = &m.config.IP, &i.ConsolePort
		}
		if filter.IncludeStats && i.State == wire.StateRunning {
			stats := m.stats(now, i)
			stats.Cores = m.config.Cores
			f.Stats = &stats
		}
		found = append(found, f)
	}
	return found
}

// Stats are the answers to droplet.status: one for each live instance.
func (m *Machine) Stats(now time.Time) []wire.InstanceStats {
	var all []wire.InstanceStats
	for _, i := range m.sorted() {
		if i.live() {
			all = append(all, m.stats(now, i))
		}
	}
	return all
}

func (m *Machine) stats(now time.Time, i *Instance) wire.InstanceStats {
	s := wire.InstanceStats{
		Name: i.Start.Name, Host: m.config.IP, URIs: i.Start.URIs,
		Uptime:   max(0, now.Sub(i.Began).Seconds()),
		MemQuota: int64(i.Start.Limits.Mem) << 20, DiskQuota: int64(i.Start.Limits.Disk) << 20, FDsQuota: i.Start.Limits.FDs,
		Usage: i.Usage,
	}
	if i.Port != 0 {
		s.Port = &i.Port
	}
	return s
}

// Varz are the DEA's fields of /varz.
func (m *Machine) Varz(now time.Time) map[string]any {
	type sum struct {
		UsedMemory     float64 `json:"used_memory"`     // KiB
		ReservedMemory int     `json:"reserved_memory"` // KiB
		UsedDisk       int64   `json:"used_disk"`       // bytes
		UsedCPU        float64 `json:"used_cpu"`        // percent
	}
	frameworks, runtimes := map[string]*sum{}, map[string]*sum{}
	running := []map[string]any{}
	for _, i := range m.sorted() {
		if !i.live() {
			continue
		}
		for _, group := range []struct {
			of   map[string]*sum
			name string
		}{{frameworks, i.Start.Framework}, {runtimes, i.Start.Runtime}} {
			s := group.of[group.name]
			if s == nil {
				s = &sum{}
				group.of[group.name] = s
			}
			s.ReservedMemory += i.Start.Limits.Mem << 10
			if i.Usage != nil {
				s.UsedMemory += i.Usage.Mem
				s.UsedDisk += i.Usage.Disk
				s.UsedCPU += i.Usage.CPU
			}
		}
		if i.State != wire.StateRunning {
			continue
		}
		// Without the start document, which has the app's credentials.
		running = append(running, map[string]any{
			"droplet_id": i.Start.Droplet, "instance_id": i.ID, "instance_index": i.Start.Index,
			"name": i.Start.Name, "version": i.Start.Version, "uris": i.Start.URIs, "users": i.Start.Users,
			"framework": i.Start.Framework, "runtime": i.Start.Runtime, "state": i.State, "state_timestamp": i.Since,
			"port": i.Port, "mem_quota": int64(i.Start.Limits.Mem) << 20, "disk_quota": int64(i.Start.Limits.Disk) << 20,
			"fds_quota": i.Start.Limits.FDs, "uptime": max(0, now.Sub(i.Began).Seconds()), "usage": i.Usage,
		})
	}
	doc := map[string]any{
		"apps_max_memory": m.config.MaxMemory, "apps_reserved_memory": m.Reserved(),
		"apps_used_memory": int(m.used() / 1024), "num_apps": m.clients(), "running_apps": running,
		"frameworks": frameworks, "runtimes": runtimes,
	}
	if m.draining {
		doc["state"] = wire.StateShuttingDown
	}
	return doc
}

// folder names an instance's folder, "<name>-<index>-<instance id>", whatever
// the app's name may contain.
func folder(name string, index int, id string) string {
	safe := strings.Map(func(r rune) rune {
		if r < 128 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
			return r
		}
		return '_'
	}, name)
	return fmt.Sprintf("%.64s-%d-%s", safe, index, id)
}
