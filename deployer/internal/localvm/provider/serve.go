package provider

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/terraform-exec/tfexec"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
)

// programPrefix begins the names under which Terraform starts providers.
const programPrefix = "terraform-provider-"

// IsProvider tells whether the program was started under a provider's name:
// then it is to run Main and nothing else.
func IsProvider(argv0 string) bool {
	return strings.HasPrefix(filepath.Base(argv0), programPrefix)
}

// factory makes providers that start executable for inits and publications.
func factory(executable string) func() tfprotov6.ProviderServer {
	return providerserver.NewProtocol6(&localProvider{executable: executable})
}

// Main serves the provider to an engine that started this program as a
// plugin, and returns its exit status.
func Main() int {
	executable, err := os.Executable() // the real one, not the link in the mirror
	if err == nil {
		err = tf6server.Serve(Source, factory(executable))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Serve serves the provider from within this process until stop is called,
// which waits for the end. executable is deploy's own path, for the inits that
// the provider starts.
func Serve(executable string) (info tfexec.ReattachInfo, stop func(), err error) {
	// Read from the environment by the libraries, which log every call otherwise.
	for _, name := range []string{"TF_LOG_SDK", "TF_LOG_PROVIDER"} {
		if err := os.Setenv(name, "off"); err != nil {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	configs := make(chan *plugin.ReattachConfig, 1)
	closed := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		failed <- tf6server.Serve(Source, factory(executable),
			tf6server.WithDebug(ctx, configs, closed),
			tf6server.WithGoPluginLogger(hclog.NewNullLogger()),
			tf6server.WithoutLogStderrOverride())
	}()
	stop = func() {
		cancel()
		<-failed
	}
	select {
	case c := <-configs:
		return tfexec.ReattachInfo{Source: {
			Protocol:        string(c.Protocol),
			ProtocolVersion: c.ProtocolVersion,
			Pid:             c.Pid,
			Test:            true,
			Addr:            tfexec.ReattachConfigAddr{Network: c.Addr.Network(), String: c.Addr.String()},
		}}, stop, nil
	case err := <-failed:
		cancel()
		return nil, nil, errors.Join(errors.New("cannot serve the local provider to Terraform"), err)
	}
}

// Mirror makes below dir a mirror of providers with this one, so that an
// engine run by hand finds it: a link to executable under the name that
// Terraform expects. The version follows the executable's contents. It returns
// the version and whether anything changed.
func Mirror(dir, executable string) (version string, changed bool, err error) {
	version, err = mirrorVersion(executable)
	if err != nil {
		return "", false, fmt.Errorf("cannot offer the local provider to engines run by hand: %w", err)
	}
	versions := filepath.Join(dir, filepath.FromSlash(Source))
	folder := filepath.Join(versions, version, runtime.GOOS+"_"+runtime.GOARCH)
	link := filepath.Join(folder, programPrefix+Type+"_v"+version)
	if now, err := os.Readlink(link); err == nil && now == executable {
		return version, false, nil
	}
	err = os.RemoveAll(versions)
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err == nil {
		err = os.Symlink(executable, link)
	}
	if err != nil {
		return "", false, fmt.Errorf("cannot offer the local provider to engines run by hand: %w", err)
	}
	return version, true, nil
}

// mirrorVersion derives a version from Go's build id, which changes with the
// contents of the executable and is read much faster than those.
func mirrorVersion(executable string) (string, error) {
	file, err := elf.Open(executable)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if section := file.Section(".note.go.buildid"); section != nil {
		id, err := section.Data()
		if err != nil {
			return "", err
		}
		hash.Write(id)
	} else { // built without one
		whole, err := os.Open(executable)
		if err != nil {
			return "", err
		}
		defer func() { _ = whole.Close() }()
		if _, err := io.Copy(hash, whole); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("0.1.%d", binary.BigEndian.Uint32(hash.Sum(nil))), nil
}
