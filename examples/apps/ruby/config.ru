# Answers with who it is: any rack app is pushed like this.
require 'json'

ME = JSON.parse(ENV['VCAP_APPLICATION'] || '{"name":"ruby","instance_index":0}')

# rackup ends in good order at INT; the platform sends TERM.
trap('TERM') { Process.kill('INT', Process.pid) }

run lambda { |env|
  size = env['rack.input'].read.to_s.bytesize
  text = "Hello from #{ME['name']}/#{ME['instance_index']}, in Ruby #{RUBY_VERSION}"
  text += ", #{size} bytes read" if size > 0
  [200, { 'content-type' => 'text/plain' }, [text + "\n"]]
}
