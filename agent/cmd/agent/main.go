// Command agent is what runs on a VM; see package agent.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "0.0.0-dev"

const usage = `usage:
  agent run --dir DIR       run the agent of this folder
  agent install --dir DIR [--patience TIME]
                            start the agent with the VM and wait until it answers
  agent uninstall --dir DIR [--deployment ID]
                            end the agent and its processes, remove its folder;
                            with an id, status 4 if it is another deployment's
  agent keep --dir DIR      run the agent, and again when it ends, where no init does
  agent shim --dir DIR      parent of one process; started by the agent
  agent version`

// uninstallTimeout bounds that command.
const uninstallTimeout = 2 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == "shim" {
		os.Exit(shim.Main(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		if errors.Is(err, agent.ErrForeign) {
			os.Exit(4)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("agent "+args[0], flag.ContinueOnError)
	dir := flags.String("dir", "", "the agent's folder")
	var deployment string
	patience := agent.InstallTime
	if args[0] == "install" {
		flags.DurationVar(&patience, "patience", patience, "the time that it may take; slow machines need more")
	}
	if args[0] == "uninstall" {
		flags.StringVar(&deployment, "deployment", "", "id of the deployment whose agent it must be")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] == "version" {
		fmt.Println(version)
		return nil
	}
	if *dir == "" || flags.NArg() > 0 {
		return errors.New(usage)
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	switch args[0] {
	case "run":
		return runAgent(ctx, *dir, executable)
	case "install":
		return install(ctx, *dir, executable, patience)
	case "uninstall":
		ctx, cancel := context.WithTimeout(ctx, uninstallTimeout)
		defer cancel()
		return agent.Uninstall(ctx, *dir, deployment, os.Environ())
	case "keep":
		return agent.Keep(ctx, *dir, executable, os.Environ(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	return errors.New(usage)
}

func runAgent(ctx context.Context, dir, executable string) error {
	// An agent idles nearly all its life beside processes that need the memory:
	// collect early, and hard when an operation has grown the heap.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(48 << 20)
	digest, err := agent.FileDigest(executable)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	command, err := shimCommand(executable, dir)
	if err != nil {
		return err
	}
	parts, err := ownParts(dir, executable, command[0])
	if err != nil {
		return err
	}
	a, err := agent.Open(ctx, agent.Config{
		Dir: dir, Version: version, Digest: digest,
		Shim: command, Parts: parts,
		Env:            agent.BaseEnv(os.Environ()),
		ManagePackages: os.Getuid() == 0 && os.Getenv("DEPLOY_VM") == "",
		Log:            slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return errors.Join(err, agent.NoteFailure(dir, err))
	}
	<-ctx.Done()
	return a.Close()
}

// ownParts are those of the programs that lie in the agent's folder.
func ownParts(dir string, programs ...string) ([]agent.Part, error) {
	var parts []agent.Part
	slices.Sort(programs)
	for _, program := range slices.Compact(programs) {
		if filepath.Dir(program) != filepath.Join(dir, "bin") {
			continue
		}
		part, err := agent.PartOf(program)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func install(ctx context.Context, dir, executable string, patience time.Duration) error {
	digest, err := agent.FileDigest(executable)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	// A running agent does so only at its start.
	if _, err := shimCommand(executable, dir); err != nil {
		return err
	}
	note, err := agent.Install(ctx, dir, executable, os.Environ(), patience)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(struct {
		Agent  string `json:"agent"`
		Socket string `json:"socket"`
		Note   string `json:"note,omitempty"`
	}{digest, filepath.Join(dir, "run", "agent.sock"), note})
}
