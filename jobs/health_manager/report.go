package healthmanager

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Healthy counts the indices of an app's version with an instance that runs; ""
// is the wanted version. known says whether there is such an app.
func (s *State) Healthy(id wire.ID, version string, now time.Time) (health wire.Health, known bool) {
	a := s.apps[id]
	if a == nil {
		return wire.Health{}, false
	}
	if version == "" && a.desired != nil {
		version = a.desired.Version
	}
	running := map[int]bool{}
	for _, i := range a.instances {
		wanted := i.version == version || a.desired != nil && version == a.desired.Version && a.desired.has(i.version)
		if wanted && i.running && s.alive(i, now) {
			running[i.index] = true
		}
	}
	return wire.Health{Droplet: id, Version: version, Healthy: len(running)}, true
}

// Flapping lists the indices of an app's version that crash again and again and
// do not run at the moment. known says whether there is such an app.
func (s *State) Flapping(id wire.ID, version string, now time.Time) (list wire.FlappingIndices, known bool) {
	list.Indices = []wire.FlappingIndex{}
	a := s.apps[id]
	if a == nil {
		return list, false
	}
	if a.desired == nil || version != "" && version != a.desired.Version {
		return list, true
	}
	keep := s.keepers(a, now)
	for _, i := range slices.Sorted(maps.Keys(a.indices)) {
		if x := a.indices[i]; s.flaps(x) && keep[i] == "" && i < a.desired.Instances {
			list.Indices = append(list.Indices, wire.FlappingIndex{Index: i, Since: x.crashed.Unix()})
		}
	}
	return list, true
}

// Crashes lists an app's crashed instances, the oldest crash first. known says
// whether there is such an app.
func (s *State) Crashes(id wire.ID) (list wire.CrashedInstances, known bool) {
	list.Instances = []wire.CrashedInstance{}
	a := s.apps[id]
	if a == nil {
		return list, false
	}
	for _, name := range slices.SortedFunc(maps.Keys(a.crashes), func(x, y string) int {
		if c := a.crashes[x].at.Compare(a.crashes[y].at); c != 0 {
			return c
		}
		return strings.Compare(x, y)
	}) {
		list.Instances = append(list.Instances, wire.CrashedInstance{Instance: name, Since: a.crashes[name].at.Unix(), Version: a.crashes[name].version})
	}
	return list, true
}

// Record is all that is known of an app.
func (s *State) Record(id wire.ID, now time.Time) (record wire.HealthRecord, known bool) {
	a := s.apps[id]
	if a == nil {
		return wire.HealthRecord{}, false
	}
	crashes, _ := s.Crashes(id)
	record = wire.HealthRecord{Droplet: id, Crashes: crashes.Instances, Indices: []wire.HealthIndex{}, Extra: []wire.HealthInstance{}}
	keep := map[int]string{}
	if d := a.desired; d != nil {
		record.State, record.LiveVersion, record.Instances = wire.AppStopped, d.Version, d.Instances
		record.Framework, record.Runtime, record.LastUpdated = d.Framework, d.Runtime, d.Updated.Unix()
		if d.Started {
			record.State = wire.AppStarted
			keep = s.keepers(a, now)
		}
		for n := range d.Instances {
			record.Indices = append(record.Indices, s.indexRecord(a, n, keep[n]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.instances)) {
		i := a.instances[name]
		if keep[i.index] != name && s.alive(i, now) {
			record.Extra = append(record.Extra, wire.HealthInstance{Instance: name, Version: i.version, Index: i.index, Since: i.since.Unix()})
		}
	}
	return record, true
}

func (s *State) indexRecord(a *app, n int, name string) wire.HealthIndex {
	record := wire.HealthIndex{Index: n, State: "DOWN", Instance: name}
	if x := a.indices[n]; x != nil {
		record.Crashes = x.crashes
		if s.flaps(x) {
			record.State = wire.StatusFlapping
		}
		if !x.restart.IsZero() {
			record.RestartAt = x.restart.Unix()
		}
	}
	if i := a.instances[name]; i != nil {
		record.State, record.LastHeartbeat = wire.StateStarting, i.heard.Unix()
		if i.running {
			record.State = wire.StateRunning
		}
	}
	return record
}

// Figures are the sums over apps. Only started apps' instances are wanted.
type Figures struct {
	Apps      int `json:"apps"`
	Instances int `json:"instances"` // wanted
	Running   int `json:"running_instances"`
	Missing   int `json:"missing_instances"` // neither starting nor running
	Crashed   int `json:"crashes"`           // remembered
	Flapping  int `json:"flapping_instances"`
}

func (f *Figures) add(g Figures) {
	f.Apps += g.Apps
	f.Instances += g.Instances
	f.Running += g.Running
	f.Missing += g.Missing
	f.Crashed += g.Crashed
	f.Flapping += g.Flapping
}

// Sums are Figures of all apps, and of those of each framework and runtime.
type Sums struct {
	Figures
	Frameworks map[string]*Figures
	Runtimes   map[string]*Figures
}

// Sum counts: all apps, and those that are started.
func (s *State) Sum(now time.Time) (total, started Sums) {
	for _, sums := range []*Sums{&total, &started} {
		sums.Frameworks, sums.Runtimes = map[string]*Figures{}, map[string]*Figures{}
	}
	for _, a := range s.apps {
		f := Figures{Crashed: len(a.crashes)}
		if a.desired == nil {
			total.Crashed += f.Crashed
			continue
		}
		f.Apps = 1
		if a.desired.Started {
			f.Instances = a.desired.Instances
			keep := s.keepers(a, now)
			f.Missing = f.Instances - len(keep)
			for n := range a.desired.Instances {
				name, found := keep[n]
				switch {
				case found && a.instances[name].running:
					f.Running++
				case !found && s.flaps(a.indices[n]):
					f.Flapping++
				}
			}
			started.count(a.desired, f)
		}
		total.count(a.desired, f)
	}
	return total, started
}

func (s *Sums) count(d *Desired, f Figures) {
	s.Figures.add(f)
	for _, by := range []struct {
		groups map[string]*Figures
		name   string
	}{{s.Frameworks, d.Framework}, {s.Runtimes, d.Runtime}} {
		if by.groups[by.name] == nil {
			by.groups[by.name] = &Figures{}
		}
		by.groups[by.name].add(f)
	}
}
