package views

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
)

// Error prints an error: manifest problems with their source lines, processes
// that failed with their last log lines.
func Error(w io.Writer, err error, color bool, width uint) {
	problems, other := parted(err)
	for _, p := range problems {
		_, _ = io.WriteString(w, manifestError(p, color, width))
	}
	if other == nil {
		return
	}
	fmt.Fprintf(w, "%s %s\n", paint(color, red, "Error:"), likewiseLines(safe(other.Error())))
	shown := map[string]bool{} // instances that fail alike are told once
	for _, failure := range failures(other) {
		alike := strings.Join(append([]string{failure.Job, failure.Name}, failure.Log...), "\n")
		if len(failure.Log) > 0 && !shown[alike] {
			shown[alike] = true
			fmt.Fprintf(w, "\nLast lines of %s:\n", safe(failure.Job+"/"+failure.Name))
			for _, l := range failure.Log {
				fmt.Fprintf(w, "  %s %s\n", paint(color, faint, "|"), safe(l))
			}
		}
	}
}

// manifestError returns the problems of a manifest with their source lines. What
// a terminal would not show as itself is escaped; the text then has no colour,
// since the writer's colours could not be told from the source's.
func manifestError(e *deployer.ManifestError, color bool, width uint) string {
	var b bytes.Buffer
	e.Write(&b, width, false)
	if text := b.String(); !color || !plain(text) {
		return safe(text)
	}
	b.Reset()
	e.Write(&b, width, true)
	return b.String()
}

// parted divides an error into the problems of manifests and all else, which is
// nil if there is nothing else.
func parted(err error) (problems []*deployer.ManifestError, other error) {
	var problem *deployer.ManifestError
	if !errors.As(err, &problem) {
		return nil, err
	}
	var others []error
	switch x := any(err).(type) { // this layer only: errors.As would look below it
	case interface{ Unwrap() error }:
		return parted(x.Unwrap()) // the problems say what the wrapping would
	case interface{ Unwrap() []error }:
		for _, inner := range x.Unwrap() {
			p, o := parted(inner)
			problems, others = append(problems, p...), append(others, o)
		}
		return problems, errors.Join(others...)
	default:
		return []*deployer.ManifestError{problem}, nil
	}
}

// failures are all process failures in a tree of errors.
func failures(err error) []*api.ProcessFailure {
	var out []*api.ProcessFailure
	seen := map[*api.ProcessFailure]bool{}
	var walk func(any) // a tree walked by hand: errors.As finds only the first
	walk = func(err any) {
		if e, ok := err.(*api.Error); ok && e.Process != nil && !seen[e.Process] {
			seen[e.Process] = true
			out = append(out, e.Process)
		}
		switch x := err.(type) {
		case interface{ Unwrap() error }:
			if inner := x.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range x.Unwrap() {
				walk(inner)
			}
		}
	}
	walk(err)
	return out
}
