package plugins

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

func rack(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	if !there(app, "config.ru") {
		return start{}, errors.New("a rack app needs a config.ru in its root")
	}
	env, run, err := s.ruby(app)
	if err != nil {
		return start{}, err
	}
	if run == "" {
		run = "-S "
	}
	return start{env: env, command: localRuntime + " " + run + `rackup "$@" config.ru -E "$RACK_ENV"`}, nil
}

var requiresSinatra = regexp.MustCompile(`(?m)^\s*require[\s(]*['"]sinatra(/base)?['"]`)

func sinatra(s *staging) (start, error) {
	app, err := s.moveApp("app")
	if err != nil {
		return start{}, err
	}
	main, err := sinatraMain(app)
	if err != nil {
		return start{}, err
	}
	env, run, err := s.ruby(app)
	if err != nil {
		return start{}, err
	}
	if run != "" {
		run += "ruby "
	}
	return start{env: env, command: localRuntime + " " + run + quote(main) + ` "$@"`}, nil
}

// sinatraMain is the first script in the root that requires sinatra.
func sinatraMain(app string) (string, error) {
	scripts, err := filepath.Glob(filepath.Join(app, "*.rb"))
	if err != nil {
		return "", err
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			return "", err
		}
		if requiresSinatra.Match(text) {
			return filepath.Base(script), nil
		}
	}
	return "", errors.New("cannot tell what starts this Sinatra app: no script in its root requires sinatra")
}

// ruby installs the app's gems if it has a Gemfile.lock. It returns what the app
// is started with: variables, and what stands after the interpreter ("": nothing
// is needed).
func (s *staging) ruby(app string) (env map[string]string, run string, err error) {
	env = map[string]string{"RACK_ENV": "${RACK_ENV:-production}"}
	if !there(app, "Gemfile.lock") {
		if there(app, "Gemfile") {
			s.say("there is a Gemfile and no Gemfile.lock: the app gets the gems of this cloud's Ruby, in whatever version; `bundle lock` fixes them")
		}
		return env, "", nil
	}
	bundle, err := exec.LookPath("bundle")
	if err != nil {
		return nil, "", fmt.Errorf("cannot install the app's gems: bundler is not on the stager's machine: %w", err)
	}
	install := []string{bundle, "install"}
	if !s.FetchDependencies {
		if !there(app, "vendor", "cache") {
			s.say("there is a Gemfile.lock and no vendor/cache: this stager fetches no gems, so it must have them all; `bundle cache` lets you push them along")
		}
		install = append(install, "--local")
	}
	// Bundler wants a folder of gems that it can write to, even if it installs none.
	settings := []string{"GEM_HOME=" + filepath.Join(os.Getenv("HOME"), "gems"), "BUNDLE_WITHOUT=development:test", "BUNDLE_SILENCE_ROOT_WARNING=true"}
	env["BUNDLE_WITHOUT"] = "development:test"
	env["BUNDLE_GEMFILE"] = "$PWD/app/Gemfile"
	env["BUNDLE_FROZEN"] = "true"
	if there(app, "vendor", "cache") || s.FetchDependencies {
		settings = append(settings, "BUNDLE_PATH="+filepath.Join(app, "vendor", "bundle"), "BUNDLE_FROZEN=true")
		env["BUNDLE_PATH"] = "$PWD/app/vendor/bundle"
	}
	if err := s.command(app, settings, s.RuntimePath, install...); err != nil {
		return nil, "", err
	}
	return env, "-S bundle exec ", nil
}
