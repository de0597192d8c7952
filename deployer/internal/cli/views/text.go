package views

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// Line prints a sentence.
func Line(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, safe(fmt.Sprintf(format, args...)))
}

// Ask prints a question; the answer is on the same line.
func Ask(w io.Writer, question string) { fmt.Fprint(w, safe(question)) }

// Question asks, and says which answer only is a yes. If warn is not nil, it says
// first what data the plan loses.
func Question(w io.Writer, warn *plan.Plan, question, yes string, color bool) {
	if warn != nil {
		fmt.Fprintf(w, "\n%s", DataLoss(warn, color))
	}
	Ask(w, fmt.Sprintf("\n%s Only %s is accepted: ", question, yes))
}

// Changed prints what was changed in a format that takes the list, or that nothing was.
func Changed(w io.Writer, changed []string, done, nothing string) {
	if len(changed) == 0 {
		Line(w, "%s", nothing)
		return
	}
	Line(w, done, strings.Join(changed, ", "))
}

// Secrets prints the manifest's secrets, without values.
func Secrets(w io.Writer, secrets []deployer.SecretInfo) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SECRET\tTYPE\tATTRIBUTES\tSTATE")
	for _, s := range cleaned(secrets) {
		state := "not made yet"
		switch {
		case s.NotAfter != nil:
			state = "until " + s.NotAfter.Format(time.DateOnly)
		case s.Made:
			state = "made"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Type, strings.Join(s.Attributes, " "), state)
	}
	t.Flush()
}

// Revisions prints the applies that can be returned to.
func Revisions(w io.Writer, revisions []deployer.Revision) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REVISION\tAT\tMANIFEST\tINSTANCES\tPACKAGES")
	for _, r := range cleaned(revisions) {
		fmt.Fprintf(t, "%d\t%s\t%.12s\t%d\t%d\n", r.Number, r.At.Local().Format(time.DateTime), r.Manifest, len(r.Generations), len(r.Packages))
	}
	t.Flush()
}

// ReleaseMade prints what is in a release.
func ReleaseMade(w io.Writer, r *deployer.Release) {
	Line(w, "%s: version %s, jobs %s, programs %s, %.1f MiB",
		r.Archive, r.Version, strings.Join(r.Jobs, " "), strings.Join(r.Programs, " "), float64(r.Size)/(1<<20))
}

// ReleaseBlock prints the block with which a manifest pins a release.
func ReleaseBlock(w io.Writer, r *deployer.Release) {
	fmt.Fprintf(w, "release \"mine\" {\n  archive = %q\n  version = %q\n  sha256  = %q\n", r.Archive, r.Version, r.SHA256)
	if r.PublicKey != "" {
		fmt.Fprintf(w, "\n  public_keys = [%q]\n", r.PublicKey)
	}
	fmt.Fprint(w, "}\n")
}

// ErrandsEnded prints how errands ended.
func ErrandsEnded(w io.Writer, r *deployer.RunResult) {
	for _, x := range r.Runs {
		how := fmt.Sprintf("ended well after %s", x.Took.Round(10*time.Millisecond))
		if x.Error != "" {
			how = "failed: " + x.Error
			if x.Status > 0 {
				how += fmt.Sprintf(" (exit status %d)", x.Status)
			}
		}
		Line(w, "%s on %s %s", r.Errand, x.Instance, how)
	}
}
