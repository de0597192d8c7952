package views

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/clusterworks/deploy/deployer"
)

// History prints what was done to a deployment.
func History(w io.Writer, h *deployer.History) {
	h = cleaned(h)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHEN\tWHAT\tBY\tTOOK\tREVISION\tRESULT")
	for _, e := range h.Entries {
		revision := "-"
		if e.Revision > 0 {
			revision = strconv.Itoa(e.Revision)
		}
		if e.Kept {
			revision += " *"
		}
		result, took := e.Result, e.Took.Round(100*time.Millisecond).String()
		if result == "" {
			result, took = "did not end", "-" // or runs now
		}
		if r := []rune(result); len(r) > 100 {
			result = string(r[:99]) + "…"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.At.Local().Format(time.DateTime), e.What, orDash(e.Who), took, revision, result)
	}
	t.Flush()
	if len(h.Revisions) > 0 {
		fmt.Fprintln(w, "\n* can be returned to (deploy rollback) and compared with (deploy diff)")
	}
}
