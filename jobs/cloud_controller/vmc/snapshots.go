package vmc

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// jobAside is the interval at which a job that lasts is told of where nothing moves.
const jobAside = 10 * time.Second

func snapshotsCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "snapshots SERVICE",
		Short:   "List the snapshots of a service",
		Example: "  vmc snapshots db\n  vmc snapshots db --json",
		Args:    cobra.ExactArgs(1),
	}, ofService(show(v, ofApp(func(c *client.Client, ctx context.Context, service string) ([]client.Snapshot, error) {
		return client.DataOf(c, service).Snapshots(ctx)
	}), func(_ *client.Client, args []string, list []client.Snapshot) error {
		if len(list) == 0 {
			v.say("There are no snapshots of %s; vmc snapshot %s makes one.", args[0], args[0])
			return nil
		}
		t := newTable("ID", "NAME", "MADE", "SIZE", "BY")
		for _, s := range list {
			t.row(s.ID, s.Name, clock(s.Date.Unix()), size(s.Size), s.By)
		}
		return t.print(v.out)
	})))
}

func snapshotCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:   "snapshot SERVICE [NAME]",
		Short: "Make a snapshot of a service, to which you can roll back",
		Long: `snapshot keeps what is in a service now. Apps go on using it meanwhile. It returns when
the snapshot is kept, and prints its id; if you interrupt it, the cloud goes on.`,
		Example: "  vmc snapshot db\n  vmc snapshot db \"before the update\"",
		Args:    cobra.RangeArgs(1, 2),
	}, ofService(func(ctx context.Context, c *client.Client, args []string) error {
		name := ""
		if len(args) == 2 {
			name = args[1]
		}
		j, err := client.DataOf(c, args[0]).CreateSnapshot(ctx, name)
		if err != nil {
			return err
		}
		if j, err = waitJob(ctx, v, client.DataOf(c, args[0]), j, "Making a snapshot of "+args[0]); err != nil {
			return err
		}
		if v.json {
			return v.printJSON(j.Snapshot)
		}
		_, err = fmt.Fprintln(v.out, j.SnapshotID)
		return err
	}))
}

func rollbackSnapshotCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.command(&cobra.Command{
		Use:   "rollback-snapshot SERVICE ID",
		Short: "Replace all that is in a service by a snapshot",
		Long: `rollback-snapshot replaces everything that is in a service by what a snapshot has. Apps
are kept out while that lasts, and their connections are ended; users and passwords stay.
What was written since the snapshot is lost: make another one first if you may need it.`,
		Example: "  vmc snapshots db\n  vmc snapshot db && vmc rollback-snapshot db 3-1f09ab7c",
		Args:    cobra.ExactArgs(2),
	}, ofService(func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.confirm(force, "Replace all that is in %s by the snapshot %s?", args[0], args[1]); err != nil {
			return err
		}
		j, err := client.DataOf(c, args[0]).RollbackSnapshot(ctx, args[1])
		if err != nil {
			return err
		}
		return tellJob(ctx, v, client.DataOf(c, args[0]), j, fmt.Sprintf("Rolling %s back to %s", args[0], args[1]))
	}))
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

func deleteSnapshotCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.command(&cobra.Command{
		Use:     "delete-snapshot SERVICE ID",
		Short:   "Delete a snapshot of a service",
		Example: "  vmc delete-snapshot db 3-1f09ab7c",
		Args:    cobra.ExactArgs(2),
	}, ofService(func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.confirm(force, "Delete the snapshot %s of %s?", args[1], args[0]); err != nil {
			return err
		}
		j, err := client.DataOf(c, args[0]).DeleteSnapshot(ctx, args[1])
		if err != nil {
			return err
		}
		return tellJob(ctx, v, client.DataOf(c, args[0]), j, fmt.Sprintf("Deleting the snapshot %s of %s", args[1], args[0]))
	}))
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

// tellJob waits until a job has ended and, if that is wanted, prints it.
func tellJob(ctx context.Context, v *vmc, of client.ServiceData, j client.ServiceJob, what string) error {
	j, err := waitJob(ctx, v, of, j, what)
	if err == nil && v.json {
		err = v.printJSON(j)
	}
	return err
}

// waitJob waits until a job has ended, and tells how far it is. One that fails is an error.
func waitJob(ctx context.Context, v *vmc, of client.ServiceData, j client.ServiceJob, what string) (client.ServiceJob, error) {
	_, live := terminal(v.err)
	begin, told := time.Now(), time.Now()
	for !j.Over() {
		if live {
			fmt.Fprintf(v.err, "\r%s ... %s\x1b[K", what, jobProgress(j, time.Since(begin)))
		} else if time.Since(told) > jobAside {
			told = time.Now()
			v.say("%s ... %s", what, jobProgress(j, time.Since(begin)))
		}
		select {
		case <-ctx.Done():
			if live {
				fmt.Fprintln(v.err)
			}
			return j, fmt.Errorf("%s goes on in the cloud: %w", what, context.Cause(ctx))
		case <-time.After(pollEvery):
		}
		next, err := of.Job(ctx, j.ID)
		if err != nil {
			return j, fmt.Errorf("cannot find out how far the job %s is, which goes on: %w", j.ID, err)
		}
		j = next
	}
	if live {
		fmt.Fprint(v.err, "\r\x1b[K")
	}
	if j.Status == "failed" {
		why := "the cloud does not say why"
		if j.Error != nil {
			why = fmt.Sprintf("%s (error %d)", j.Error.Description, j.Error.Code)
		}
		return j, fmt.Errorf("%s failed: %s", what, why)
	}
	v.say("%s: done, %.1fs", what, time.Since(begin).Seconds())
	return j, nil
}

// jobProgress says how far a job is.
func jobProgress(j client.ServiceJob, took time.Duration) string {
	switch {
	case j.Status == "queued":
		return "waiting for other jobs, " + age(took)
	case j.Total > 0:
		return fmt.Sprintf("%d%%, %s", 100*min(j.Done, j.Total)/j.Total, age(took))
	}
	return fmt.Sprintf("%s, %s", size(j.Done), age(took))
}
