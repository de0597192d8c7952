package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func statusCommand(a *app) *cobra.Command {
	var drift, census, exit bool
	cmd := &cobra.Command{
		Use:   "status MANIFEST",
		Short: "Show every instance, its agent and its processes",
		Long: `Shows every instance, its agent and its processes. With --exit-code it exits with 3
if an instance fails: it does not run although no operator stopped it, its VM or
disk is lost, its agent does not answer or reports what cannot be true. Ignored
instances do not count.`,
		Example: `  deploy status examples/cluster.hcl
  deploy status --drift cluster.hcl     what was changed by hand since it was installed
  deploy status --census cluster.hcl    which databases, apps and streams live where
  deploy status --json cluster.hcl | jq -r '.instances[] | select(.state != "running").id'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			status := d.Status
			switch {
			case drift && census:
				return errors.New("cannot show both: use --drift or --census")
			case drift:
				status = d.StatusWithDrift
			case census:
				status = d.StatusWithCensus
			}
			s, err := status(cmd.Context())
			if err != nil {
				return err
			}
			err = a.answer(s, func(w io.Writer, color bool) { views.Status(w, s, color, width(a.out)) })
			if err == nil && exit && !s.Healthy() {
				return exitCode(exitFailing)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&exit, "exit-code", false, "exit with 3 if an instance fails")
	cmd.Flags().BoolVar(&census, "census", false, "show what lives on the instances, as their jobs say")
	cmd.Flags().BoolVar(&drift, "drift", false, "show installed files that were changed by hand")
	return cmd
}

func validateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "validate MANIFEST",
		Short:   "Check a manifest, its jobs and templates, without VMs",
		Example: "  deploy validate examples/cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			summary, err := d.Validate()
			if err != nil {
				return err
			}
			return a.answer(summary, func(w io.Writer, _ bool) {
				views.Line(w, "%s is valid: %s, %s, %s", args[0], views.Count(summary.Groups, "group"), views.Count(summary.Instances, "instance"), views.Count(summary.Jobs, "job"))
			})
		},
	}
}

func logsCommand(a *app) *cobra.Command {
	var request deployer.LogsRequest
	cmd := &cobra.Command{
		Use:   "logs MANIFEST [GROUP[/INDEX] [PROCESS]]",
		Short: "Show the logs of processes",
		Example: `  deploy logs cluster.hcl router/0           last lines of all its processes
  deploy logs -f cluster.hcl router          follow all routers
  deploy logs -n 200 cluster.hcl lb/0 nginx`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			if len(args) > 1 {
				request.Target = args[1]
			}
			if len(args) > 2 {
				request.Process = args[2]
			}
			out := views.NewLogs(a.out, a.json, isTerminal(a.out), color(a.out))
			return d.Logs(cmd.Context(), request, out.Line)
		},
	}
	cmd.ValidArgsFunction = complete(a, 1, func(n deployer.Names) []string { return append(slices.Clone(n.Groups), n.Instances...) })
	cmd.Flags().BoolVarP(&request.Follow, "follow", "f", false, "follow the logs until interrupted")
	cmd.Flags().IntVarP(&request.Lines, "lines", "n", 20, "start with the last `N` lines of each process")
	return cmd
}

func busCommand(a *app) *cobra.Command {
	account := "agents"
	var ca bool
	cmd := &cobra.Command{
		Use:   "bus MANIFEST -- COMMAND...",
		Short: "Run a NATS client with the deployer's access to the bus",
		Long: `Runs a command with NATS_URL set, so that the stock nats client speaks to the
deployment's bus: to agents, to components, or to the servers themselves. It may do
everything there. NATS_URL leads to a port of this machine, with a password of its
own, that deploy forwards to the bus: both end with deploy, however it ends. The
exit status is the command's.`,
		Example: `  deploy bus cluster.hcl -- nats micro ls
  deploy bus cluster.hcl --account components -- nats sub 'router.>'
  deploy bus cluster.hcl --account system -- nats server list
  deploy bus cluster.hcl --ca > ca.pem           for a client of your own`,
		Args: func(cmd *cobra.Command, args []string) error {
			if ca {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.MinimumNArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			if ca {
				trusted, err := d.Reach().BusCA()
				if err != nil {
					return err
				}
				_, err = io.WriteString(a.out, trusted)
				return err
			}
			return ended(d.Reach().Bus(cmd.Context(), account, args[1:], deployer.Streams{In: a.in, Out: file(a.out), Err: file(a.errOut)}))
		},
	}
	cmd.Flags().StringVar(&account, "account", account, "whose messages: agents, components or system")
	cmd.Flags().BoolVar(&ca, "ca", false, "print the CA that the bus's certificates are of, and run nothing")
	return cmd
}

func formatCommand(a *app) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt PATH...",
		Short: "Format manifests and job files",
		Example: `  deploy fmt examples/cluster.hcl
  deploy fmt --check .          list files that are not, exit 1 if any`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var changed bool
			for _, path := range args {
				c, err := formatPath(path, check, a.out)
				if err != nil {
					return err
				}
				changed = changed || c
			}
			if check && changed {
				return exitCode(exitError)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "list the files that would change, without changing them")
	return cmd
}

func formatPath(path string, check bool, out io.Writer) (changed bool, err error) {
	err = filepath.WalkDir(path, func(file string, e os.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot format %s: %w", file, err)
		}
		if e.IsDir() && file != path && strings.HasPrefix(e.Name(), ".") {
			return filepath.SkipDir
		}
		if e.IsDir() || filepath.Ext(file) != ".hcl" {
			return nil
		}
		old, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot format %s: %w", file, err)
		}
		parsed, diags := hclsyntax.ParseConfig(old, file, hcl.InitialPos)
		if diags.HasErrors() {
			return &deployer.ManifestError{Diagnostics: diags, Files: map[string]*hcl.File{file: {Bytes: old, Body: parsed.Body}}}
		}
		formatted := hclwrite.Format(old)
		if bytes.Equal(old, formatted) {
			return nil
		}
		changed = true
		views.Line(out, "%s", file)
		if check {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("cannot format %s: %w", file, err)
		}
		if err := renameio.WriteFile(file, formatted, info.Mode().Perm()); err != nil {
			return fmt.Errorf("cannot format %s: %w", file, err)
		}
		return nil
	})
	return changed, err
}
