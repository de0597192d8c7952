package views

import (
	"io"

	"github.com/clusterworks/deploy/deployer"
)

// Repaired prints what of a state folder was put back.
func Repaired(w io.Writer, done []deployer.Repaired) {
	if len(done) == 0 {
		Line(w, "Nothing to repair: the state folder is whole.")
		return
	}
	for _, r := range done {
		Line(w, "%s: put back from %s", r.File, r.From)
		if r.Aside != "" {
			Line(w, "  what was there is now %s", r.Aside)
		}
	}
}
