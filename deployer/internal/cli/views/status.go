package views

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
)

// statusColumns are those of the table, in their order. Those that are least missed are
// left out first if the terminal is too narrow for all: narrow is their order then, 0
// for those that stay. --json has everything.
var statusColumns = []struct {
	title  string
	narrow int
}{{"INSTANCE", 0}, {"STATE", 0}, {"ADDRESS", 0}, {"AZ", 4}, {"PROCESS", 0}, {"PID", 1}, {"UPTIME", 3}, {"RESTARTS", 5}, {"CPU", 2}, {"MEMORY", 6}}

const stateColumn, zoneColumn = 1, 3

// Status prints the cluster's table, no wider than width columns if that is possible.
func Status(w io.Writer, s *deployer.Status, color bool, width int) {
	s = cleaned(s)
	var rows [][]string
	for _, in := range s.Instances {
		first := []string{in.ID, stateOf(in), orDash(in.Address), orDash(in.AZ)}
		if len(in.Processes) == 0 {
			rows = append(rows, append(first, "-", "-", "-", "-", "-", "-"))
		}
		for _, p := range in.Processes {
			name := p.Name
			if p.State != string(api.ProcessRunning) {
				name += " (" + p.State + ")"
			}
			rows = append(rows, append(first, name, fmt.Sprint(p.PID), uptime(p.UptimeS), fmt.Sprint(p.Restarts), fmt.Sprintf("%.1f%%", p.CPUPercent), megabytes(p.RSSBytes)))
			first = []string{"", "", "", ""}
		}
	}
	printTable(w, rows, color, width)
	var texts []string
	for _, in := range s.Instances {
		for _, reason := range in.Reasons {
			texts = append(texts, in.ID+": "+reason)
		}
		for _, j := range in.Census {
			text, grave := held(j)
			mark := " "
			if grave {
				mark = paint(color, yellow, "!")
			}
			fmt.Fprintf(w, "%s %s: %s\n", mark, in.ID, text)
		}
		for _, d := range in.Drift {
			texts = append(texts, fmt.Sprintf("%s: drift: %s", in.ID, d))
		}
	}
	for _, text := range append(likewise(texts, nil), s.Warnings...) {
		fmt.Fprintf(w, "%s %s\n", paint(color, yellow, "!"), text)
	}
	levels(w, s.Levels, color)
}

// stateOf is the state of an instance in a word or two.
func stateOf(in deployer.InstanceStatus) string {
	state := in.State
	if in.Agent == deployer.AgentSilent {
		state = "silent"
	}
	if in.Agent == deployer.AgentDistrusted {
		state = "not believed"
	}
	switch in.VM {
	case deployer.VMUnreachable:
		state = "unreachable"
	case deployer.VMMissing:
		state = "no VM"
	}
	if in.Held && state == string(api.InstanceStopped) {
		state = "stopped (by an operator)"
	}
	if in.Ignored {
		state += ", ignored"
	}
	return state
}

// printTable prints the rows below the titles, with the states in their colours.
func printTable(w io.Writer, rows [][]string, color bool, width int) {
	titles := make([]string, len(statusColumns))
	for i, c := range statusColumns {
		titles[i] = c.title
	}
	rows = append([][]string{titles}, rows...)
	wide := make([]int, len(titles))
	for _, r := range rows {
		for i, cell := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(cell))
		}
	}
	shown := make([]bool, len(titles))
	total := -2 // nothing follows the last one
	for i := range shown {
		shown[i] = true
		total += wide[i] + 2
	}
	drop := func(i int) {
		shown[i] = false
		total -= wide[i] + 2
	}
	if !slices.ContainsFunc(rows[1:], func(r []string) bool { return r[zoneColumn] != "-" && r[zoneColumn] != "" }) {
		drop(zoneColumn)
	}
	for order := 1; total > width && order < len(titles); order++ {
		for i, c := range statusColumns {
			if c.narrow == order && shown[i] {
				drop(i)
			}
		}
	}
	for n, r := range rows {
		var line strings.Builder
		for i, cell := range r {
			if !shown[i] {
				continue
			}
			padded := cell + strings.Repeat(" ", wide[i]-utf8.RuneCountInString(cell)+2)
			if n > 0 && i == stateColumn {
				padded = strings.Replace(padded, cell, paintState(color, cell), 1)
			}
			line.WriteString(padded)
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// paintState shows in red what does not do what it should, and in yellow what does not
// do it yet, or is not to.
func paintState(on bool, state string) string {
	switch {
	case state == "" || state == string(api.InstanceRunning):
		return state
	case strings.HasPrefix(state, string(api.InstanceStarting)), strings.HasPrefix(state, string(api.InstanceStopped)), strings.HasSuffix(state, ", ignored"):
		return paint(on, yellow, state)
	}
	return paint(on, red, state)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// uptime is a time in its two largest units: "3d4h", "1h2m", "5s".
func uptime(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	switch days := seconds / 86400; {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, seconds%86400/3600)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", seconds/3600, seconds%3600/60)
	}
	return d.String()
}

func megabytes(b int64) string { return fmt.Sprintf("%.1fM", float64(b)/(1<<20)) }
