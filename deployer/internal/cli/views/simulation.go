package views

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/clusterworks/deploy/deployer"
)

// SimulationEvent prints what happened, and what follows.
func SimulationEvent(w io.Writer, at time.Duration, event string, commands []string) {
	fmt.Fprintf(w, "%10s  %s\n", at.Round(time.Millisecond), safe(event))
	for _, c := range commands {
		fmt.Fprintf(w, "%10s  -> %s\n", "", safe(c))
	}
}

// Simulation prints how a simulated rollout went.
func Simulation(w io.Writer, s *deployer.Simulation) {
	s = cleaned(s)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tINSTANCES\tTOUCHED\tMOST IN FLIGHT\tLOWEST AVAILABLE")
	for _, g := range s.Groups {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\n", g.Name, g.Instances, g.Touched, g.MaxInFlight, g.LowestAvailable)
	}
	t.Flush()
	for _, f := range s.Failures {
		fmt.Fprintln(w, f)
	}
	for _, b := range s.Broken {
		fmt.Fprintln(w, "BROKEN:", b)
	}
	fmt.Fprintf(w, "\n%s: %s, %s after %s of virtual time, %s (computed in %s).\n",
		s.Deployment, Count(s.Instances, "instance"), s.Outcome, s.Virtual.Round(100*time.Millisecond), Count(s.Operations, "operation"), s.Took.Round(time.Millisecond))
}
