package cli

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

// ended turns the exit status of what a command ran into the command's own.
func ended(status int, err error) error {
	if err == nil && status != 0 {
		return exitCode(status)
	}
	return err
}

func sshCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh MANIFEST GROUP[/INDEX] [-- COMMAND...]",
		Short: "Open a shell on an instance's VM, or run a command there",
		Long: `Opens a shell on an instance's VM, or runs a command there with exactly the
arguments that it is given: spaces, quotes and empty ones arrive as they are. One
argument alone is a line for the VM's shell, with variables and pipes. The exit
status is the command's, 128 and the signal's number if a signal ended it. A group
with one instance needs no index.`,
		Example: `  deploy ssh cluster.hcl router/0
  deploy ssh cluster.hcl router/0 -- ps aux
  deploy ssh cluster.hcl router/0 -- 'ls /var/log | wc -l'`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			return ended(d.Reach().SSH(cmd.Context(), deployer.SSHRequest{
				Instance: args[1], Command: args[2:],
				In: a.in, Out: file(a.out), Err: file(a.errOut),
			}))
		},
	}
	cmd.ValidArgsFunction = complete(a, 1, func(n deployer.Names) []string { return n.Instances })
	return cmd
}

func scpCommand(a *app) *cobra.Command {
	var q deployer.SCPRequest
	cmd := &cobra.Command{
		Use:   "scp MANIFEST SOURCE... TARGET",
		Short: "Copy files to and from instances' VMs",
		Long: `Copies with the scp of this machine, as the user and to the port that deploy uses,
and only to the machine with the known host key. A file on a VM is named
GROUP/INDEX:PATH. The key of the deployment is lent for the time of the copy and
not written to disk.`,
		Example: `  deploy scp cluster.hcl postgres/0:/var/log/syslog .
  deploy scp -r cluster.hcl ./pages lb/0:/tmp/`,
		Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			q.Paths = args[1:]
			q.Streams = deployer.Streams{In: a.in, Out: file(a.out), Err: file(a.errOut)}
			return ended(d.Reach().SCP(cmd.Context(), q))
		},
	}
	cmd.Flags().BoolVarP(&q.Recursive, "recursive", "r", false, "copy folders")
	cmd.Flags().BoolVarP(&q.Preserve, "preserve", "p", false, "keep times and modes")
	cmd.ValidArgsFunction = complete(a, 1, func(n deployer.Names) []string {
		out := slices.Clone(n.Instances)
		for i := range out {
			out[i] += ":"
		}
		return out
	})
	return cmd
}

func sshConfigCommand(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "ssh-config MANIFEST --out FOLDER",
		Short: "Write a configuration of OpenSSH with which stock clients reach the VMs",
		Long: `Writes FOLDER/config, the host keys that it accepts, and the deployment's private key
for ssh, scp, sftp, rsync and what else uses OpenSSH. Hosts are called GROUP-INDEX.
The key is good for as long as the deployment has it: remove the folder when you are
done.`,
		Example: `  deploy ssh-config cluster.hcl --out /tmp/cf
  ssh -F /tmp/cf/config router-0
  rsync -e 'ssh -F /tmp/cf/config' -a router-0:/var/log/ logs/`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" {
				return fmt.Errorf("cannot write the configuration: name a folder that only you can read, --out FOLDER")
			}
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			hosts, err := d.Reach().WriteSSHConfig(dir)
			if err != nil {
				return err
			}
			return a.answer(hosts, func(w io.Writer, _ bool) {
				views.Line(w, "%d hosts; use: ssh -F %s/config %s", len(hosts), dir, hosts[0].Alias)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "out", "", "the `FOLDER`; it is made if it does not exist")
	return cmd
}
