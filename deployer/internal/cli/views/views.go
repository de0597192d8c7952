package views

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

type ansi string

const (
	red    ansi = "31"
	green  ansi = "32"
	yellow ansi = "33"
	bold   ansi = "1"
	faint  ansi = "2"
)

func paint(on bool, c ansi, s string) string {
	if !on {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// Plan prints every consequence.
func Plan(w io.Writer, p *plan.Plan, color bool) {
	p = cleaned(p)
	if p.Empty() {
		exempt(w, p, color)
		if len(p.Failing) > 0 {
			fmt.Fprintf(w, "%s: nothing to change, but %d of %d instances do not do what they should:\n", p.Deployment, len(p.Failing), len(p.Instances))
			failing(w, p.Failing, color)
			levels(w, p.Levels, color)
			return
		}
		what := "everything matches the manifest"
		if n := owed(p); n > 0 {
			what = fmt.Sprintf("everything matches the manifest, except for %d left as they are", n)
		}
		fmt.Fprintf(w, "%s: nothing to do, %s.\n", p.Deployment, what)
		levels(w, p.Levels, color)
		return
	}
	if len(p.VMs) > 0 {
		fmt.Fprintln(w, paint(color, bold, "VMs"))
		for _, v := range p.VMs {
			fmt.Fprintf(w, "  %s %s\n", symbol(v.Action, color), v.Resource)
		}
		fmt.Fprintln(w)
	}
	if len(p.Disks) > 0 {
		fmt.Fprintln(w, paint(color, bold, "Disks"))
		for _, d := range p.Disks {
			fmt.Fprintln(w, disk(d, color))
		}
		fmt.Fprintln(w)
	}
	if len(p.Changes()) > 0 {
		fmt.Fprintln(w, paint(color, bold, "Instances"))
	}
	changes(w, p, color)
	exempt(w, p, color)
	if left := p.Unhealed(); len(left) > 0 {
		fmt.Fprintf(w, "\n%s\n", paint(color, bold, "Failing, with nothing to change"))
		failing(w, left, color)
	}
	if len(p.Levels) > 0 {
		fmt.Fprintln(w)
		levels(w, p.Levels, color)
	}
	fmt.Fprintf(w, "\nPlan: %s.\n", summary(p))
}

// levels says what processes have found on their machines, and where that is less
// than the manifest requires.
func levels(w io.Writer, reports []plan.LevelReport, color bool) {
	for _, line := range plan.SummarizeLevels(reports) {
		fmt.Fprintln(w, line)
	}
	for _, r := range plan.BelowLeast(reports) {
		fmt.Fprintf(w, "%s %s\n", paint(color, red, "!"), r)
	}
}

// failing says which instances fail, and why.
func failing(w io.Writer, list []plan.Failing, color bool) {
	var texts []string
	for _, f := range list {
		texts = append(texts, f.Instance+" is failing: "+strings.Join(f.Reasons, "; "))
	}
	for _, text := range likewise(texts, nil) {
		fmt.Fprintf(w, "  %s %s\n", paint(color, red, "!"), text)
	}
}

// Diff prints what lies between two revisions.
func Diff(w io.Writer, d *deployer.Diff, color bool) {
	d = cleaned(d)
	if d.Plan.Empty() {
		fmt.Fprintf(w, "%s and %s lead to the same.\n", capital(d.From), d.To)
		return
	}
	fmt.Fprintf(w, "From %s to %s:\n", d.From, d.To)
	changes(w, d.Plan, color)
	fmt.Fprintf(w, "\n%s.\n", capital(summary(d.Plan)))
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// changes prints what becomes of instances, those alike together.
func changes(w io.Writer, p *plan.Plan, color bool) {
	for _, alike := range alike(p.Changes()) {
		c := alike[0]
		fmt.Fprintf(w, "  %s %s %s", symbol(c.Action, color), c.Instance, c.Action)
		if c.Held {
			fmt.Fprint(w, " (stopped by an operator: it is not started)")
		}
		if len(c.Causes) > 0 {
			fmt.Fprintf(w, ": %s", strings.Join(c.Causes, "; "))
		}
		if len(alike) > 1 {
			var others []string
			for _, x := range alike[1:] {
				others = append(others, x.Instance)
			}
			fmt.Fprintf(w, " (likewise %s)", short(others))
		}
		fmt.Fprintln(w)
		for _, pr := range c.Processes {
			fmt.Fprintf(w, "      %s process %s/%s: %s\n", pr.Action, pr.Job, pr.Name, pr.Cause)
		}
		if c.Census != nil {
			for _, text := range census(*c.Census, color) {
				fmt.Fprintf(w, "      %s\n", text)
			}
		}
		for _, f := range c.Files {
			if c.Action == plan.Create {
				fmt.Fprintf(w, "      file %s/%s\n", f.Job, f.Path) // all of it is new
				continue
			}
			printDiff(w, f.Diff, color)
		}
	}
}

// owed returns the number of instances that are left as they are although something is owed.
func owed(p *plan.Plan) int {
	n := 0
	for _, c := range p.Instances {
		if c.Owed != "" {
			n++
		}
	}
	return n
}

// exempt says what is owed to instances that are ignored. Of those that are no
// target only their number is told, by summary; of those not believed by failing.
func exempt(w io.Writer, p *plan.Plan, color bool) {
	for _, c := range p.Instances {
		if c.Exempt == plan.ExemptIgnored && c.Owed != "" {
			fmt.Fprintf(w, "  = %s %s\n", c.Instance, paint(color, faint, "is ignored: it would "+string(c.Owed)+": "+strings.Join(c.Causes, "; ")))
		}
	}
}

// disk says what becomes of a persistent disk.
func disk(d plan.DiskChange, color bool) string {
	what := fmt.Sprintf("disk of %s, %d GB", d.Instance, d.SizeGB)
	if d.Folder != "" {
		what += ", " + d.Folder
	}
	switch d.Action {
	case plan.Delete:
		return "  " + paint(color, red, "- "+what+": DELETED, all data on it is lost")
	case plan.Lost:
		return "  " + paint(color, red, "! "+what+": GONE, with all data on it; an EMPTY one takes its place")
	case plan.Adopt:
		return "  " + paint(color, green, "+") + " " + what + ": " + d.Instance + " takes it again, with the data on it"
	}
	return "  = " + what + ": kept; " + d.Instance + " takes it again when it returns, --delete-disks removes it"
}

// DataLoss warns of a plan that deletes disks, or by which users lose what lives on
// instances.
func DataLoss(p *plan.Plan, color bool) string {
	p = cleaned(p)
	n := 0
	for _, d := range p.Disks {
		if d.Action == plan.Delete || d.Action == plan.Lost {
			n++
		}
	}
	var out []string
	if n > 0 {
		out = append(out, paint(color, red, fmt.Sprintf("THE DATA ON %d PERSISTENT DISK(S) WILL BE LOST.", n)))
	}
	if bereaved := p.Bereaved(); len(bereaved) > 0 {
		out = append(out, paint(color, red, fmt.Sprintf("WHAT LIVES ON %d INSTANCE(S) WILL BE LOST: %s.", len(bereaved), strings.Join(Bereaved(p), ", "))))
	}
	return strings.Join(out, "\n") + " To confirm, type the deployment's name.\n"
}

// alike puts together the instances of a group to which just the same happens,
// in the order of the first of each.
func alike(changes []plan.InstanceChange) [][]plan.InstanceChange {
	var out [][]plan.InstanceChange
	place := map[string]int{}
	for _, c := range changes {
		same := c
		same.Instance, same.AZ, same.From, same.To = "", "", "", ""
		if c.Action == plan.Create { // how the new files differ is not shown
			same.Files = nil
		}
		same.Files = slices.Clone(same.Files)
		for i := range same.Files { // what stays around a change may differ
			same.Files[i].Diff = changedLines(same.Files[i].Diff)
		}
		key := fmt.Sprintf("%+v", same)
		i, seen := place[key]
		if !seen {
			i = len(out)
			place[key] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], c)
	}
	return out
}

// changedLines are the lines of a diff that go and come.
func changedLines(diff string) string {
	var out []string
	for _, l := range strings.Split(diff, "\n") {
		header := strings.HasPrefix(l, "+++ ") || strings.HasPrefix(l, "--- ")
		if !header && !strings.HasPrefix(l, "@@ ") && !strings.HasPrefix(l, " ") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// short lists instances, runs of indexes as "router/4 to router/90".
func short(ids []string) string {
	var out []string
	for i := 0; i < len(ids); {
		group, index, err := api.SplitInstance(ids[i])
		end := i
		for err == nil && end+1 < len(ids) && ids[end+1] == api.InstanceID(group, index+end+1-i) {
			end++
		}
		if end-i < 3 {
			out = append(out, ids[i])
			i++
			continue
		}
		out = append(out, ids[i]+" to "+ids[end])
		i = end + 1
	}
	return strings.Join(out, ", ")
}

func symbol(a plan.Action, color bool) string {
	switch a {
	case plan.Create, plan.Start:
		return paint(color, green, "+")
	case plan.Delete, plan.Stop:
		return paint(color, red, "-")
	case plan.Recreate, plan.Move:
		return paint(color, red, "±")
	case plan.Blocked:
		return paint(color, red, "?")
	case plan.None:
		return " "
	}
	return paint(color, yellow, "~")
}

func summary(p *plan.Plan) string {
	counts := map[plan.Action]int{}
	for _, c := range p.Instances {
		counts[c.Action]++
	}
	var parts []string
	if n := len(p.VMs); n > 0 && len(p.Changes()) == 0 {
		parts = append(parts, fmt.Sprintf("%d to change at the VMs", n))
	}
	for _, a := range []plan.Action{plan.Create, plan.Start, plan.Recreate, plan.Move, plan.Update, plan.Reload, plan.Restart, plan.Stop, plan.Delete, plan.Blocked} {
		if n := counts[a]; n > 0 {
			if a == plan.Blocked {
				parts = append(parts, fmt.Sprintf("%d blocked", n))
				continue
			}
			parts = append(parts, fmt.Sprintf("%d to %s", n, a))
		}
	}
	left := owed(p)
	if n := counts[plan.None] - left; n > 0 || len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%d unchanged", n))
	}
	if left > 0 {
		parts = append(parts, fmt.Sprintf("%d left as they are", left))
	}
	return strings.Join(parts, ", ")
}

// Result prints how a run ended.
func Result(w io.Writer, r *deployer.Result) {
	r = cleaned(r)
	if !r.Changed {
		fmt.Fprintf(w, "%s: %s.\n", r.Deployment, r.Summary)
		return
	}
	fmt.Fprintf(w, "%s in %.1f s.\n", r.Summary, r.Duration.Seconds())
}

// Logs prints log lines with their origin.
type Logs struct {
	mu    sync.Mutex
	w     io.Writer
	json  bool
	safe  bool
	color bool
}

// NewLogs prints to w. On a terminal lines must be safe; in a file or a pipe they
// are what was written.
func NewLogs(w io.Writer, asJSON, safe, color bool) *Logs {
	return &Logs{w: w, json: asJSON, safe: safe, color: color}
}

// Line prints one line. It may be called concurrently.
func (l *Logs) Line(line deployer.LogLine) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.json {
		err = json.NewEncoder(l.w).Encode(line)
	} else {
		if l.safe {
			line = cleaned(line)
		}
		_, err = fmt.Fprintf(l.w, "%s %s\n", paint(l.color, faint, line.Instance+" "+line.Process+" |"), line.Text)
	}
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}
