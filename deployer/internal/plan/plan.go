// Package plan compares what is wanted with what there is, per process, and
// says every consequence before anything moves. It is a pure function: no
// clock, disk or network.
package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
)

// Wanted is one instance as it shall be.
type Wanted struct {
	Group string
	AZ    string
	Spec  api.Spec
	// Known is false while something of the spec waits for the VM: Generation
	// and the digests concerned are then empty.
	Known bool
	// Shown are the files' texts by "job/path" with secrets and unknowns
	// replaced, for diffs.
	Shown map[string]string
	// Sources are the inputs (api.Job.Inputs) that a part of a job is made of.
	Sources map[Part][]string
	// Levels are lower bounds for facts of the jobs' processes.
	Levels []Level
}

// Part is a file or a process of a job.
type Part struct{ Job, Kind, Name string }

// The kinds of parts.
const (
	PartFile    = "file"
	PartProcess = "process"
)

// Existing is one instance as it is.
type Existing struct {
	// VM tells whether the infrastructure has one, Stopped that it is there but not
	// running, Known that it had one when it was last applied to.
	VM, Stopped, Known bool
	// Remade: the infrastructure has another VM than the one that was applied to, made
	// outside of deploy.
	Remade bool
	// Replace says why another VM takes this one's place, nil if none does; Moved
	// that it is elsewhere.
	Replace []string
	Moved   bool
	// Abandoned: it is replaced although its agent does not answer.
	Abandoned bool
	// Inventory is nil if there is no agent or it does not answer.
	Inventory *api.Inventory
	// Silent is why it does not answer, as far as it is known; Distrusted is why
	// its answer is not believed, if that is why there is no Inventory.
	Silent, Distrusted string
	// Active is the spec that the agent has activated, nil if none.
	Active *api.Spec
	// Shown is as Wanted.Shown, of Active.
	Shown map[string]string
	// FailedGeneration and FailedReason are what is remembered of a generation
	// that did not become healthy here.
	FailedGeneration, FailedReason string
	// Agent says what the agent itself is owed ("agent program", "bus
	// settings"); no process is touched by it.
	Agent []string
}

// Action describes what becomes of an instance or a VM.
type Action string

const (
	Create Action = "create" // nothing is installed there yet
	// Recreate and Move: another VM takes its place; with Move it is elsewhere
	// (another zone, network or address).
	Recreate Action = "recreate"
	Move     Action = "move"
	Update   Action = "update"  // files, packages or processes change
	Reload   Action = "reload"  // processes take new files without ending
	Restart  Action = "restart" // same generation; processes that do not run as wanted are started
	Start    Action = "start"   // a VM that is not running, or an instance that was stopped
	Stop     Action = "stop"    // an operator's wish; it stays stopped
	Delete   Action = "delete"
	Blocked  Action = "blocked" // the agent is silent: neither there nor gone
	None     Action = "none"

	Keep  Action = "keep"  // a disk stays without its instance
	Adopt Action = "adopt" // an instance takes the disk that was kept
	Lost  Action = "lost"  // a disk is gone: an empty one takes its place
)

// NewVM tells whether another VM takes the instance's place.
func (a Action) NewVM() bool { return a == Recreate || a == Move }

// ProcessAction describes what becomes of a process.
type ProcessAction string

const (
	ProcessStart   ProcessAction = "start"
	ProcessRestart ProcessAction = "restart"
	ProcessReload  ProcessAction = "reload"
	ProcessStop    ProcessAction = "stop"
)

// Plan is every consequence of an apply.
type Plan struct {
	Deployment string           `json:"deployment"`
	VMs        []VMChange       `json:"vms"`
	Instances  []InstanceChange `json:"instances"`
	// Disks are persistent disks that lose or find their instance.
	Disks []DiskChange `json:"disks,omitempty"`
	// Failing are the instances that should run and do not do what they should, in
	// the order of rollout, whether anything is to be changed there or not.
	Failing []Failing `json:"failing,omitempty"`
	// Levels hold what the jobs require of facts that their processes report, in the
	// order of rollout, met or not.
	Levels []LevelReport `json:"levels,omitempty"`
}

// Failing is an instance that does not do what it should.
type Failing struct {
	Instance string   `json:"instance"`
	Reasons  []string `json:"reasons"`
	// Restartable: its processes can be started anew, which may help.
	Restartable bool `json:"restartable"`
}

// Unhealed are the failing instances to which nothing else happens.
func (p *Plan) Unhealed() []Failing {
	return slices.DeleteFunc(slices.Clone(p.Failing), func(f Failing) bool {
		return slices.ContainsFunc(p.Instances, func(c InstanceChange) bool { return c.Instance == f.Instance && c.Action != None })
	})
}

// DiskChange describes what becomes of a persistent disk: Keep, Adopt, Delete or Lost.
type DiskChange struct {
	Instance string `json:"instance"`
	Action   Action `json:"action"`
	SizeGB   int    `json:"size_gb"`
	Folder   string `json:"folder,omitempty"` // or device
}

// LosesData reports whether a disk is deleted with all that is on it, an empty one
// takes the place of one that is gone, or users lose what lives on an instance.
func (p *Plan) LosesData() bool { return p.has(Delete) || p.LostDisk() || len(p.Bereaved()) > 0 }

// LostDisk reports whether an empty disk takes the place of one that is gone.
func (p *Plan) LostDisk() bool { return p.has(Lost) }

func (p *Plan) has(a Action) bool {
	return slices.ContainsFunc(p.Disks, func(d DiskChange) bool { return d.Action == a })
}

// VMChange is a resource that the engine creates, changes or deletes.
type VMChange struct {
	Resource string `json:"resource"`
	Action   Action `json:"action"`
}

// InstanceChange describes what becomes of one instance.
type InstanceChange struct {
	Instance string `json:"instance"`
	Group    string `json:"group"`
	AZ       string `json:"az,omitempty"`
	Action   Action `json:"action"`
	// Causes are for people, the most telling first.
	Causes    []string        `json:"causes,omitempty"`
	Files     []FileChange    `json:"files,omitempty"`
	Processes []ProcessChange `json:"processes,omitempty"`
	// Drift holds what was changed by hand there; an apply repairs it.
	Drift []api.Drift `json:"drift,omitempty"`
	From  string      `json:"from,omitempty"` // generation
	To    string      `json:"to,omitempty"`   // "" if not known yet
	// Exempt says why the instance is left as it is, whatever it is owed: one of
	// the constants of that name. Action is None then.
	Exempt string `json:"exempt,omitempty"`
	Owed   Action `json:"owed,omitempty"`
	// Held: an operator has stopped it. It is changed, and not started.
	Held bool `json:"held,omitempty"`
	// Census holds what lives there, if the change concerns it.
	Census *Census `json:"census,omitempty"`
}

// Why an instance is left as it is.
const (
	ExemptIgnored = "ignored"
	ExemptTarget  = "not a target" // of this run
	// ExemptDistrusted: its agent says what cannot be true. Causes say what.
	ExemptDistrusted = "not believed"
)

// FileChange is the diff of one rendered file, secrets redacted.
type FileChange struct {
	Job      string       `json:"job"`
	Path     string       `json:"path"`
	Diff     string       `json:"diff"`
	OnChange api.OnChange `json:"on_change"`
	// Inputs hold what it is made of and what changed: "property.port",
	// "link.bus.instances", "template.router.yml".
	Inputs []string `json:"inputs,omitempty"`
}

// ProcessChange describes what becomes of one process, and why.
type ProcessChange struct {
	Job    string        `json:"job"`
	Name   string        `json:"name"`
	Action ProcessAction `json:"action"`
	Cause  string        `json:"cause"`
}

// Empty tells whether there is nothing to do.
func (p *Plan) Empty() bool {
	return len(p.VMs) == 0 && !slices.ContainsFunc(p.Instances, func(c InstanceChange) bool { return c.Action != None })
}

// Changes are the instances to which something happens.
func (p *Plan) Changes() []InstanceChange {
	var out []InstanceChange
	for _, c := range p.Instances {
		if c.Action != None {
			out = append(out, c)
		}
	}
	return out
}

// Exempt leaves the instances as they are for which why gives a reason, and
// notes what they are owed.
func (p *Plan) Exempt(why func(instance string) string) {
	for i := range p.Instances {
		c := &p.Instances[i]
		if c.Exempt = why(c.Instance); c.Exempt == "" {
			continue
		}
		if c.Exempt != ExemptDistrusted {
			p.Failing = slices.DeleteFunc(p.Failing, func(f Failing) bool { return f.Instance == c.Instance })
		}
		if c.Action != None {
			c.Owed = c.Action
		}
		c.Action, c.Files, c.Processes, c.Drift = None, nil, nil, nil
	}
}

// Refines tells whether p does nothing that approved did not announce: p is
// made after the VMs exist and knows more, but may not touch more.
func (p *Plan) Refines(approved *Plan) bool {
	if (p.has(Delete) || p.LostDisk()) && !approved.has(Delete) && !approved.LostDisk() {
		return false
	}
	announced := map[string]InstanceChange{}
	for _, c := range approved.Instances {
		announced[c.Instance] = c
	}
	for _, c := range p.Changes() {
		a, ok := announced[c.Instance]
		if c.Census != nil && !a.Census.covers(*c.Census) {
			return false
		}
		switch {
		case !ok || a.Action == None:
			return false
		case a.Action == Create || a.Action.NewVM() || a.Action == Blocked || a.Action == c.Action:
		case a.Action == Update && (c.Action == Reload || c.Action == Restart):
		default:
			return false
		}
	}
	return true
}

// Make compares wanted with existing. wanted is in the order of rollout;
// existing is by instance id; what exists and is not wanted is deleted. vms are
// the engine's own changes.
func Make(deployment string, wanted []Wanted, existing map[string]Existing, vms []VMChange) *Plan {
	p := &Plan{Deployment: deployment, VMs: vms}
	seen := map[string]bool{}
	for _, w := range wanted {
		seen[w.Spec.Instance] = true
		p.Instances = append(p.Instances, instance(w, existing[w.Spec.Instance]))
		inv := existing[w.Spec.Instance].Inventory
		if len(existing[w.Spec.Instance].Replace) > 0 {
			inv = nil // another machine may offer other levels
		}
		p.Levels = append(p.Levels, levels(w, inv)...)
		if f := FailureOf(w.Spec.Instance, existing[w.Spec.Instance]); len(f.Reasons) > 0 {
			p.Failing = append(p.Failing, f)
		}
	}
	var gone []InstanceChange
	for id, e := range existing {
		if seen[id] || !e.VM {
			continue
		}
		group, _, _ := strings.Cut(id, "/")
		c := InstanceChange{Instance: id, Group: group, Action: Delete, Causes: []string{"not in the manifest"}}
		if e.Inventory != nil {
			c.From = e.Inventory.Active
			for _, s := range e.Inventory.Processes {
				c.Processes = append(c.Processes, ProcessChange{Job: s.Job, Name: s.Name, Action: ProcessStop, Cause: "not in the manifest"})
			}
		}
		gone = append(gone, c)
	}
	slices.SortFunc(gone, func(a, b InstanceChange) int { return strings.Compare(a.Instance, b.Instance) })
	p.Instances = append(p.Instances, gone...)
	return p
}

// FailureOf says why an instance does not do what it should; no reasons: it does, or
// its agent is silent.
func FailureOf(id string, e Existing) Failing {
	f := Failing{Instance: id}
	switch inv := e.Inventory; {
	case e.Distrusted != "":
		f.Reasons = []string{e.Distrusted}
	case inv == nil || inv.Held:
	case inv.State == api.InstanceFailing:
		f.Restartable = inv.Active != ""
		if f.Reasons = slices.Clone(inv.Reasons); len(f.Reasons) == 0 {
			f.Reasons = []string{"it does not say why"}
		}
	}
	if inv := e.Inventory; inv != nil && inv.Agent.DiskGone != "" {
		f.Reasons = append(f.Reasons, fmt.Sprintf("its persistent disk %s is lost", inv.Agent.DiskGone))
		f.Restartable = false
	}
	return f
}

func instance(w Wanted, e Existing) InstanceChange {
	c := InstanceChange{Instance: w.Spec.Instance, Group: w.Group, AZ: w.AZ, To: w.Spec.Generation, Action: None}
	switch {
	case !e.VM:
		c.Action, c.Causes = Create, []string{"no VM yet"}
		if e.Known {
			c.Causes[0] = "its VM is gone"
		}
		c.Files, c.Processes = files(w, e), starts(w.Spec, "first start")
		return c
	case e.Inventory == nil && e.Remade:
		c.Action, c.Causes = Create, []string{"another VM has been made in place of the one that was there"}
		c.Files, c.Processes = files(w, e), starts(w.Spec, "first start on its new VM")
		return c
	case e.Inventory == nil && e.Abandoned && e.Distrusted != "":
		c.Action, c.Causes = Recreate, append(slices.Clone(e.Replace), "its agent is not believed, so what runs there is not stopped in order")
		c.Processes = starts(w.Spec, "first start on its new VM")
		return c
	case e.Inventory == nil && e.Distrusted != "":
		c.Action, c.Causes = Blocked, []string{e.Distrusted}
		return c
	case e.Inventory == nil && e.Abandoned:
		c.Action, c.Causes = Recreate, append(slices.Clone(e.Replace), "its agent does not answer, so what runs there is not stopped in order")
		c.Processes = starts(w.Spec, "first start on its new VM")
		return c
	case e.Inventory == nil && e.Stopped:
		c.Action, c.Causes = Start, []string{"its VM is stopped"}
		return c
	case e.Inventory == nil:
		silent := "the agent does not answer"
		if e.Silent != "" {
			silent += ": " + e.Silent
		}
		c.Action, c.Causes = Blocked, []string{silent + "; apply contacts the VM over SSH, and plans again"}
		return c
	}
	inv := e.Inventory
	c.From, c.Held = inv.Active, inv.Held
	if len(e.Replace) > 0 {
		c.Action, c.Causes, c.Files = Recreate, slices.Clone(e.Replace), files(w, e)
		if e.Moved {
			c.Action = Move
		}
		if inv.Active != "" && (!w.Known || inv.Active != w.Spec.Generation) {
			c.Causes = append(c.Causes, causes(w, e, c.Files)...)
		}
		if !c.Held {
			c.Processes = starts(w.Spec, "first start on its new VM")
		}
		return c
	}
	if inv.Active == "" {
		c.Action, c.Causes = Create, []string{"nothing is installed"}
		if inv.State == api.InstanceFailing && len(inv.Reasons) > 0 {
			c.Causes = slices.Clone(inv.Reasons) // as far as it knows
		}
		c.Files, c.Processes = files(w, e), starts(w.Spec, "first start")
		return c
	}
	c.Files = files(w, e)
	c.Processes = processes(w, e)
	addRepairs(&c, w, inv)
	changed := !w.Known || inv.Active != w.Spec.Generation
	switch {
	case changed:
		c.Causes = causes(w, e, c.Files)
		c.Action = Update
		if len(c.Processes) > 0 && !slices.ContainsFunc(c.Processes, func(p ProcessChange) bool { return p.Action != ProcessReload }) {
			c.Action = Reload
		}
	case len(c.Drift) > 0 && len(c.Processes) == 0:
		c.Action = Update
	case len(c.Processes) > 0:
		c.Action = Restart
		if slices.ContainsFunc(c.Processes, func(p ProcessChange) bool { return !strings.HasPrefix(p.Cause, driftCause) }) {
			c.Causes = []string{"processes do not run as wanted"}
		} else if !slices.ContainsFunc(c.Processes, func(p ProcessChange) bool { return p.Action != ProcessReload }) {
			c.Action = Reload
		}
	case inv.Interrupted:
		c.Action, c.Causes = Restart, []string{"an update was interrupted"}
	}
	for _, d := range c.Drift {
		c.Causes = append(c.Causes, driftCause+d.String())
	}
	if len(e.Agent) > 0 {
		if c.Action == None {
			c.Action = Update
		}
		c.Causes = append(c.Causes, e.Agent...)
	}
	if c.Action != None && w.Known && e.FailedGeneration == w.Spec.Generation {
		c.Causes = append(c.Causes, "failed last time: "+e.FailedReason)
	}
	return c
}

// driftCause begins the causes that come from what was changed by hand.
const driftCause = "drift: "

// addRepairs adds what was changed by hand, and the processes that may have loaded it:
// their digests do not tell.
func addRepairs(c *InstanceChange, w Wanted, inv *api.Inventory) {
	for _, d := range inv.Drift {
		if d.Left {
			continue
		}
		c.Drift = append(c.Drift, d)
		if inv.Held {
			continue
		}
		for _, j := range w.Spec.Jobs {
			for _, p := range j.Processes {
				name := j.Name + "/" + p.Name
				action := ProcessReload
				switch {
				case slices.Contains(d.Restart, name), p.Reload == nil && slices.Contains(d.Reload, name):
					action = ProcessRestart
				case !slices.Contains(d.Reload, name):
					continue
				}
				i := slices.IndexFunc(c.Processes, func(o ProcessChange) bool { return o.Job == j.Name && o.Name == p.Name })
				if i < 0 {
					c.Processes = append(c.Processes, ProcessChange{Job: j.Name, Name: p.Name, Action: action, Cause: driftCause + d.String()})
				} else if c.Processes[i].Action == ProcessReload && action == ProcessRestart {
					c.Processes[i].Action, c.Processes[i].Cause = action, driftCause+d.String()
				}
			}
		}
	}
}

func starts(s api.Spec, cause string) []ProcessChange {
	var out []ProcessChange
	for _, j := range s.Jobs {
		for _, p := range j.Processes {
			out = append(out, ProcessChange{Job: j.Name, Name: p.Name, Action: ProcessStart, Cause: cause})
		}
	}
	return out
}

// files are the diffs of all files that differ.
func files(w Wanted, e Existing) []FileChange {
	old := map[string]api.File{}
	if e.Active != nil {
		for _, j := range e.Active.Jobs {
			for _, f := range j.Files {
				old[j.Name+"/"+f.Path] = f
			}
		}
	}
	var out []FileChange
	for _, j := range w.Spec.Jobs {
		for _, f := range j.Files {
			key := j.Name + "/" + f.Path
			was, existed := old[key]
			delete(old, key)
			if existed && f.Digest != "" && was.Digest == f.Digest {
				continue
			}
			from := e.Shown[key]
			diff := difference(key, from, w.Shown[key], existed, true)
			switch {
			case diff != "":
			case existed && was.Mode != f.Mode:
				diff = fmt.Sprintf("mode %04o -> %04o\n", was.Mode, f.Mode)
			case existed && f.Digest != "":
				diff = "a sensitive value changed\n"
			default:
				continue
			}
			out = append(out, FileChange{
				Job: j.Name, Path: f.Path, Diff: diff, OnChange: f.OnChange,
				Inputs: changedInputs(w, e.Active, j, Part{j.Name, PartFile, f.Path}),
			})
		}
	}
	for key, f := range old {
		job, path, _ := strings.Cut(key, "/")
		out = append(out, FileChange{Job: job, Path: path, Diff: difference(key, e.Shown[key], "", true, false), OnChange: f.OnChange})
	}
	slices.SortStableFunc(out, func(a, b FileChange) int {
		return strings.Compare(a.Job+"/"+a.Path, b.Job+"/"+b.Path)
	})
	return out
}

// processes are the processes that must be touched: wanted compared with running.
func processes(w Wanted, e Existing) []ProcessChange {
	if e.Inventory.Held {
		return nil // what it shall be changes, and nothing runs
	}
	running := map[string]api.ProcessStatus{}
	for _, s := range e.Inventory.Processes {
		running[s.Job+"/"+s.Name] = s
	}
	var out []ProcessChange
	for _, j := range w.Spec.Jobs {
		for _, p := range j.Processes {
			s, there := running[j.Name+"/"+p.Name]
			delete(running, j.Name+"/"+p.Name)
			c := ProcessChange{Job: j.Name, Name: p.Name}
			switch {
			case !there:
				c.Action, c.Cause = ProcessStart, "new process"
			case s.State == api.ProcessStopped:
				c.Action, c.Cause = ProcessStart, "it is stopped"
			case p.Digest == "":
				c.Action, c.Cause = ProcessRestart, unknownCause(w, j, Part{j.Name, PartProcess, p.Name}, restartClass(p))
			case s.Digest != p.Digest:
				c.Action, c.Cause = ProcessRestart, restartCause(w, e.Active, j, p)
			case p.ReloadDigest == "":
				c.Action, c.Cause = ProcessReload, unknownCause(w, j, Part{}, reloadClass)
			case s.ReloadDigest != p.ReloadDigest:
				c.Action, c.Cause = ProcessReload, fileCause(w, e.Active, j, reloadClass)
			default:
				continue
			}
			out = append(out, c)
		}
	}
	for _, s := range e.Inventory.Processes { // in order, not by map
		if _, left := running[s.Job+"/"+s.Name]; left && s.State != api.ProcessStopped {
			out = append(out, ProcessChange{Job: s.Job, Name: s.Name, Action: ProcessStop, Cause: "not in the manifest"})
		}
	}
	return out
}

func findProcess(s *api.Spec, job, name string) *api.Process {
	j := findJob(s, job)
	for i := range j.Processes {
		if j.Processes[i].Name == name {
			return &j.Processes[i]
		}
	}
	return nil
}

// findJob is empty if there is none of the name.
func findJob(s *api.Spec, name string) api.Job {
	if s != nil {
		for _, j := range s.Jobs {
			if j.Name == name {
				return j
			}
		}
	}
	return api.Job{}
}

// differing returns the names whose values differ, sorted.
func differing(a, b map[string]string) []string {
	var out []string
	for name, value := range b {
		if was, there := a[name]; !there || was != value {
			out = append(out, name)
		}
	}
	for name := range a {
		if _, left := b[name]; !left {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
