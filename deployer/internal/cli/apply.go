package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"deploy/deployer"
	"deploy/deployer/internal/cli/views"
	"deploy/deployer/internal/plan"
)

func (a *app) apply() *cobra.Command {
	var autoApprove, refresh, deleteDisks bool
	cmd := &cobra.Command{
		Use:   "apply MANIFEST",
		Short: "Make the cluster what the manifest says",
		Long: `Makes the cluster what the manifest says. Shows the plan and asks first. Interrupt
once to finish the running step, save and leave; twice to leave now. The next
apply continues from what is really there.`,
		Example: `  deploy apply examples/cluster.hcl
  deploy apply --auto-approve --var version=2 cluster.hcl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			result, err := d.Apply(cmd.Context(), deployer.ApplyRequest{
				Approve: func(p *plan.Plan) (bool, error) {
					return a.approve(progress, p, autoApprove, "Make these changes?")
				},
				Refresh:     refresh,
				DeleteDisks: deleteDisks,
			})
			progress.Close()
			if result != nil {
				if a.json {
					err = errors.Join(err, views.JSON(os.Stdout, result))
				} else if err == nil {
					views.Result(os.Stdout, result)
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&autoApprove, "auto-approve", false, "do not ask")
	cmd.Flags().BoolVar(&deleteDisks, "delete-disks", false, "delete persistent disks that no instance has any more, with all data on them")
	cmd.Flags().BoolVar(&refresh, "refresh", false, "ask the engine about the VMs even if every agent answers")
	return cmd
}

func (a *app) destroy() *cobra.Command {
	var autoApprove, forget, deleteDisks bool
	cmd := &cobra.Command{
		Use:   "destroy MANIFEST",
		Short: "Stop everything and remove the VMs and the state",
		Long: `Stops everything and removes the VMs and the state. Persistent disks are kept, and
the state with them: the next apply takes them again. With --delete-disks they
go too, with all data on them.`,
		Example: `  deploy destroy examples/cluster.hcl
  deploy destroy --auto-approve examples/cluster.hcl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			result, err := d.Destroy(cmd.Context(), deployer.DestroyRequest{
				Approve: func(p *plan.Plan) (bool, error) {
					return a.approve(progress, p, autoApprove, "Destroy all of this? It cannot be undone.")
				},
				ForgetUnreachable: forget,
				DeleteDisks:       deleteDisks,
			})
			progress.Close()
			if result != nil && err == nil {
				if a.json {
					return views.JSON(os.Stdout, result)
				}
				views.Result(os.Stdout, result)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&autoApprove, "auto-approve", false, "do not ask")
	cmd.Flags().BoolVar(&deleteDisks, "delete-disks", false, "delete persistent disks too, with all data on them")
	cmd.Flags().BoolVar(&forget, "forget-unreachable", false, "leave machines of yours that cannot be reached as they are")
	return cmd
}

func (a *app) plan() *cobra.Command {
	return &cobra.Command{
		Use:   "plan MANIFEST",
		Short: "Show every consequence of an apply, and change nothing",
		Long:  "Shows every consequence of an apply and changes nothing.\nExit codes: 0 nothing to do, 2 there are changes, 1 error.",
		Example: `  deploy plan examples/cluster.hcl
  deploy plan --json cluster.hcl | jq '.instances[] | select(.action != "none")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.quiet()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			p, err := d.Plan(cmd.Context())
			progress.Close()
			if err != nil {
				return err
			}
			if a.json {
				if err := views.JSON(os.Stdout, p); err != nil {
					return err
				}
			} else {
				views.Plan(os.Stdout, p, colorOn(os.Stdout))
			}
			if !p.Empty() {
				return exitCode(exitChanges)
			}
			return nil
		},
	}
}

// quiet is progress for commands whose standard output is their answer.
func (a *app) quiet() views.Progress {
	if a.json {
		return views.NoProgress{}
	}
	return a.progress()
}

// approve shows the plan and asks, unless told not to.
func (a *app) approve(progress views.Progress, p *plan.Plan, auto bool, question string) (bool, error) {
	progress.Pause()
	defer progress.Resume()
	if !a.json {
		views.Plan(os.Stdout, p, colorOn(os.Stdout))
	}
	if auto {
		return true, nil
	}
	if a.json || !term.IsTerminal(int(os.Stdin.Fd())) {
		return false, fmt.Errorf("cannot ask for approval: standard input is not a terminal; use --auto-approve: %w", deployer.ErrNotApproved)
	}
	wanted := "yes"
	if p.LosesData() {
		wanted = p.Deployment
		fmt.Printf("\n%s", views.DataLoss(p, colorOn(os.Stdout)))
	}
	fmt.Printf("\n%s Only %s is accepted: ", question, wanted)
	answer := make(chan string, 1) // the reader ends with the process if nobody answers
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		return line == wanted, nil
	case <-a.interrupt:
		fmt.Println()
		return false, nil
	}
}
