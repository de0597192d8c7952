package plan

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
)

// causes says what of an instance's specification changed, the most telling
// first: what a person has changed rather than which file that ended up in.
func causes(w Wanted, e Existing, changed []FileChange) []string {
	if e.Active == nil {
		return []string{"the active generation is not readable"}
	}
	var out []string
	add := func(cause string) {
		if cause != "" && !slices.Contains(out, cause) {
			out = append(out, cause)
		}
	}
	several := len(w.Spec.Jobs) > 1
	for _, name := range changedPackages(w.Spec, e.Active) {
		add("package " + name)
	}
	for _, f := range changed {
		for _, name := range f.Inputs {
			add(describeInput(name, f.Job, several))
		}
		if len(f.Inputs) == 0 {
			add("file " + f.Job + "/" + f.Path)
		}
	}
	for _, j := range w.Spec.Jobs {
		old := findJob(e.Active, j.Name)
		if old.Name == "" {
			add("new job " + j.Name)
			continue
		}
		for _, p := range j.Processes {
			was := findProcess(e.Active, j.Name, p.Name)
			switch {
			case was == nil:
				add("new process " + j.Name + "/" + p.Name)
			case p.Digest == "" || was.Digest != p.Digest:
				inputs := changedInputs(w, e.Active, j, Part{j.Name, PartProcess, p.Name})
				for _, name := range inputs {
					if !strings.HasPrefix(name, "package.") { // packages are named already
						add(describeInput(name, j.Name, several))
					}
				}
				if len(inputs) == 0 && len(out) == 0 {
					add("process " + j.Name + "/" + p.Name)
				}
			}
		}
		for _, cause := range settings(old, j) {
			add(cause)
		}
	}
	for _, j := range e.Active.Jobs {
		if findJob(&w.Spec, j.Name).Name == "" {
			add("job " + j.Name + " is not wanted any more")
		}
	}
	if e.Active.Address != w.Spec.Address && w.Spec.Address != "" {
		add("address " + e.Active.Address + " -> " + w.Spec.Address)
	}
	if e.Active.AZ != w.Spec.AZ {
		add("zone")
	}
	if !reflect.DeepEqual(e.Active.Firewall, w.Spec.Firewall) {
		add("firewall")
	}
	if len(out) == 0 {
		add("settings of the agent")
	}
	return out
}

// settings are the changes to what the agent itself does for a job; no process
// is touched by them.
func settings(old, wanted api.Job) []string {
	var out []string
	differ := func(what string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			out = append(out, what)
		}
	}
	hooks := map[string]api.Hook{}
	for _, h := range old.Hooks {
		hooks[string(h.Kind)+" "+h.Name] = h
	}
	for _, h := range wanted.Hooks {
		was, there := hooks[string(h.Kind)+" "+h.Name]
		delete(hooks, string(h.Kind)+" "+h.Name)
		if !there || !reflect.DeepEqual(was, h) {
			out = append(out, "hook "+hookName(wanted.Name, h))
		}
	}
	for _, h := range old.Hooks {
		if _, left := hooks[string(h.Kind)+" "+h.Name]; left {
			out = append(out, "hook "+hookName(wanted.Name, h))
		}
	}
	differ("ports of "+wanted.Name, inAnyOrder(old.Listens), inAnyOrder(wanted.Listens))
	for _, p := range wanted.Processes {
		for _, was := range old.Processes {
			if was.Name != p.Name {
				continue
			}
			name := wanted.Name + "/" + p.Name
			differ("health checks of "+name, inAnyOrder(was.Checks), inAnyOrder(p.Checks))
			differ("how "+name+" reloads", was.Reload, p.Reload)
			differ("routes of "+name, inAnyOrder(was.Routes), inAnyOrder(p.Routes))
			differ("how "+name+" is stopped", []any{was.KillMode, was.StopSignal, was.StopGrace}, []any{p.KillMode, p.StopSignal, p.StopGrace})
			differ("how "+name+" is restarted", was.Restart, p.Restart)
		}
	}
	return out
}

// inAnyOrder returns what blocks say, the same in whatever order they stand.
func inAnyOrder[T any](blocks []T) []string {
	var out []string
	for _, b := range blocks {
		out = append(out, fmt.Sprintf("%+v", b))
	}
	slices.Sort(out)
	return out
}

func hookName(job string, h api.Hook) string {
	if h.Name != "" {
		return string(h.Kind) + " " + job + "/" + h.Name
	}
	return string(h.Kind) + " of " + job
}

// changedInputs are the inputs of a part that differ from those of the active
// generation, or may. None if that one does not tell (it is older than inputs).
func changedInputs(w Wanted, active *api.Spec, j api.Job, part Part) []string {
	old := findJob(active, j.Name).Inputs
	if old == nil {
		return nil
	}
	var out []string
	for _, name := range w.Sources[part] {
		if was, there := old[name]; !there || was != j.Inputs[name] || j.Inputs[name] == "" {
			out = append(out, name)
		}
	}
	return out
}

// describeInput is an input as people call it: "property port", "link bus
// (instances)".
func describeInput(name, job string, withJob bool) string {
	kind, rest, _ := strings.Cut(name, ".")
	var text string
	switch kind {
	case "property", "template", "certificate", "package":
		text = kind + " " + rest
		if withJob {
			text += " of job " + job
		}
	case "link":
		link, what, _ := strings.Cut(rest, ".")
		text = "link " + link
		if what != "" {
			text += " (" + strings.Replace(what, ".", " ", 1) + ")"
		}
	case "group":
		text = "instances of the group"
	case "instance":
		text = rest
	default:
		text = strings.ReplaceAll(name, ".", " ")
	}
	return text
}

func describeInputs(names []string) string {
	var out []string
	for _, name := range names {
		out = append(out, describeInput(name, "", false))
	}
	return strings.Join(out, ", ")
}

// The classes of files by what their change asks for.

func reloadClass(f api.File) bool { return f.OnChange == api.OnChangeReload }

func restartClass(p api.Process) func(api.File) bool {
	return func(f api.File) bool {
		return f.OnChange == api.OnChangeRestart || f.OnChange == api.OnChangeReload && p.Reload == nil
	}
}

// restartCause says why a process must end and start.
func restartCause(w Wanted, active *api.Spec, j api.Job, p api.Process) string {
	was := findProcess(active, j.Name, p.Name)
	if was == nil {
		return "it runs an unknown specification"
	}
	inputs := changedInputs(w, active, j, Part{j.Name, PartProcess, p.Name})
	because := func(what string) string {
		if len(inputs) > 0 {
			return what + " (" + describeInputs(inputs) + ")"
		}
		return what
	}
	var out []string
	if !slices.Equal(was.Command, p.Command) {
		if changed := changedPackages(w.Spec, active); len(changed) > 0 {
			out = append(out, "package "+strings.Join(changed, ", "))
		} else {
			before := findJob(active, j.Name)
			out = append(out, because(commandChange(&before, &j, p.Name)))
		}
	}
	if names := differing(was.Env, p.Env); len(names) > 0 {
		out = append(out, because("environment "+strings.Join(names, ", ")))
	}
	if was.User != p.User || was.Dir != p.Dir || was.Limits != p.Limits || was.Control != p.Control {
		out = append(out, "user, folder or limits")
	}
	if !reflect.DeepEqual(findJob(active, j.Name).Mbus, j.Mbus) {
		out = append(out, because("message-bus URIs"))
	}
	if f := fileCause(w, active, j, restartClass(p)); f != "" {
		out = append(out, f)
	}
	switch {
	case len(out) > 0:
		return strings.Join(out, "; ") + " changed"
	case len(inputs) > 0: // the job says that these need a restart
		return describeInputs(inputs) + " changed"
	}
	return "it runs an earlier specification"
}

// fileCause names the files of a class that differ from the active ones, and
// what in them.
func fileCause(w Wanted, active *api.Spec, j api.Job, class func(api.File) bool) string {
	old := map[string]string{}
	for _, f := range findJob(active, j.Name).Files {
		old[f.Path] = f.Digest
	}
	var out []string
	for _, f := range j.Files {
		if !class(f) || old[f.Path] == f.Digest {
			continue
		}
		text := f.Path
		if inputs := changedInputs(w, active, j, Part{j.Name, PartFile, f.Path}); len(inputs) > 0 {
			text += " (" + describeInputs(inputs) + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// unknownCause says on what a process depends that is not known yet: its own
// part, and files of a class.
func unknownCause(w Wanted, j api.Job, own Part, class func(api.File) bool) string {
	parts := []Part{own}
	for _, f := range j.Files {
		if class(f) && f.Digest == "" {
			parts = append(parts, Part{j.Name, PartFile, f.Path})
		}
	}
	var names []string
	for _, part := range parts {
		for _, name := range w.Sources[part] {
			if digest, there := j.Inputs[name]; there && digest == "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	const cause = "depends on values known after apply"
	if len(names) == 0 {
		return cause
	}
	return cause + ": " + describeInputs(names)
}

func changedPackages(spec api.Spec, active *api.Spec) []string {
	old := map[string]string{}
	for _, p := range active.Packages {
		old[p.Name] = p.Digest
	}
	var out []string
	for _, p := range spec.Packages {
		if old[p.Name] != p.Digest {
			out = append(out, p.Name)
		}
	}
	return out
}
