package cli

import (
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func engineCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "engine",
		Short: "Show the engine that makes VMs; build it if there is none",
		Long: `Shows which OpenTofu or Terraform makes VMs: the one in DEPLOY_ENGINE, else the one
on PATH, else the one in your cache folder. If there is none, it builds OpenTofu
from its Go module into the cache folder, which takes some minutes.`,
		Example: "  deploy engine",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			engine, err := deployer.FindEngine(cmd.Context(), func(text string) { views.Line(a.errOut, "%s", text) })
			if err != nil {
				return err
			}
			return a.answer(map[string]string{"name": engine.Name, "version": engine.Version, "path": engine.Path}, func(w io.Writer, _ bool) {
				views.Line(w, "%s (%s)", engine, engine.Path)
			})
		},
	}
}

// askBuild returns who is asked before an engine is built: whoever sits at the
// terminal, unless they said not to ask.
func (a *app) askBuild() func() (bool, error) {
	if a.json || a.autoApprove || !term.IsTerminal(int(a.in.Fd())) {
		return nil
	}
	return func() (bool, error) {
		if a.shown != nil {
			a.shown.Pause()
			defer a.shown.Resume()
		}
		return a.ask(false, "There is no tofu or terraform on PATH. Build OpenTofu now? It takes some minutes, once.", "yes", nil)
	}
}
