package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Error describes what the engine could not do.
type Error struct {
	Doing       string // "make the VMs"
	Engine      Engine
	Diagnostics []Diagnostic
	Advice      string
	Cause       error // that the engine ended badly, or was interrupted
}

// Diagnostic is one complaint of the engine.
type Diagnostic struct {
	Summary string
	Detail  string
	Address string // of the resource; "" if it is about none
	File    string // below the work folder; "" if none
	Line    int
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot %s with %s %s", e.Doing, e.Engine.Name, e.Engine.Version)
	b.WriteString(":")
	if len(e.Diagnostics) == 0 {
		b.WriteString(" " + trimBox(e.Cause.Error()))
	}
	for _, d := range e.Diagnostics {
		b.WriteString("\n  ")
		if d.Address != "" {
			b.WriteString(Called(d.Address) + ": ")
		}
		b.WriteString(d.Summary)
		if d.Detail != "" {
			b.WriteString(": " + strings.Join(strings.Fields(d.Detail), " "))
		}
		if d.File != "" {
			fmt.Fprintf(&b, " (%s line %d)", d.File, d.Line)
		}
	}
	if e.Advice != "" {
		b.WriteString("\n" + e.Advice)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Cause }

// address is an engine's address of a resource that a template makes for a key.
var address = regexp.MustCompile(`^module\.vms\.([a-z0-9_]+)\.([A-Za-z0-9_-]+)\["([^"]+)"\]$`)

// Called returns what people call a resource of an engine: the VM or the disk of an
// instance, an address that is published. What belongs to neither keeps its own name.
func Called(name string) string {
	m := address.FindStringSubmatch(name)
	if m == nil {
		return strings.TrimPrefix(name, "module.vms.")
	}
	switch {
	case m[1] == "localvm_publish":
		return "published address " + m[3]
	case !strings.Contains(m[3], "/"):
		return strings.TrimPrefix(name, "module.vms.")
	case m[2] == DiskResource:
		return "disk of " + m[3]
	}
	return fmt.Sprintf("VM %s (%s.%s)", m[3], m[1], m[2])
}

// failed makes the error of an engine run; log is nil for commands without
// JSON events.
func (r *Runner) failed(ctx context.Context, doing string, log *eventLog, err error) *Error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx) // which says more
	} else if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	e := &Error{Doing: doing, Engine: r.engine, Cause: err}
	if log != nil {
		e.Diagnostics = log.errors
	}
	return e
}

// trimBox takes the frame off the engine's messages for people.
func trimBox(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(strings.TrimLeft(line, "╷│╵ "))
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n  ")
}

// eventLog reads the engine's machine-readable output, a JSON object a line
// (https://developer.hashicorp.com/terraform/internals/machine-readable-ui).
type eventLog struct {
	report  func(line string)
	partial []byte
	errors  []Diagnostic
}

func newEventLog(report func(string)) *eventLog { return &eventLog{report: report} }

func (l *eventLog) Write(data []byte) (int, error) {
	l.partial = append(l.partial, data...)
	for {
		line, rest, complete := bytes.Cut(l.partial, []byte("\n"))
		if !complete {
			return len(data), nil
		}
		l.line(line)
		l.partial = rest
	}
}

func (l *eventLog) line(line []byte) {
	var event struct {
		Message    string `json:"@message"`
		Type       string `json:"type"`
		Diagnostic struct {
			Severity string `json:"severity"`
			Summary  string `json:"summary"`
			Detail   string `json:"detail"`
			Address  string `json:"address"`
			Range    struct {
				File  string `json:"filename"`
				Start struct {
					Line int `json:"line"`
				} `json:"start"`
			} `json:"range"`
		} `json:"diagnostic"`
	}
	if json.Unmarshal(line, &event) != nil {
		return
	}
	switch event.Type {
	case "apply_start", "apply_progress", "apply_complete", "apply_errored":
		l.report(event.Message)
	case "diagnostic":
		d := event.Diagnostic
		if d.Severity != "error" {
			l.report(event.Message)
			return
		}
		complaint := Diagnostic{Summary: d.Summary, Detail: d.Detail, Address: d.Address, File: d.Range.File, Line: d.Range.Start.Line}
		if !slices.Contains(l.errors, complaint) {
			l.errors = append(l.errors, complaint)
		}
	}
}
